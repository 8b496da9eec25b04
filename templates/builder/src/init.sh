#!/bin/busybox sh
# The initrd of an app VM: load the modules, mount the root image, step aside. Nothing here is a secret or a choice.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
i=0
while [ ! -b /dev/vda ] && [ $i -lt 200 ]; do $b usleep 50000; i=$((i + 1)); done
if ! $b mount -t ext4 -o rw,noatime /dev/vda /root; then
    echo "casemate: the root image cannot be mounted" > /dev/console
    $b poweroff -f
fi
$b umount /sys /proc
$b mount --move /dev /root/dev
exec $b switch_root /root /lib/systemd/systemd
