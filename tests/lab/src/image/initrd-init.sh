#!/bin/busybox sh
# The lab's initrd: read-only root with a layer of memory over it, then the root's own script.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
i=0
while [ ! -b /dev/vda ] && [ $i -lt 200 ]; do $b usleep 50000; i=$((i + 1)); done
$b mkdir /lower /layer
if ! $b mount -t erofs -o ro /dev/vda /lower; then
    echo "lab: the root image cannot be mounted" > /dev/console
    $b poweroff -f
fi
$b mount -t tmpfs -o size=80% layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root
$b umount /sys /proc
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/lab-init
