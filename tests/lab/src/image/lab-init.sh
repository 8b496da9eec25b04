#!/bin/busybox sh
# First program of the lab's root: what a workstation's boot would have done, as little of it as
# Casemate needs, then lab-guest for the rest of the lab's life.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { read -r up _ < /proc/uptime; echo "lab: $1 at $up" > /dev/kmsg; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
mount -t tmpfs -o nosuid,nodev tmp /tmp
mount -t cgroup2 -o nsdelegate cgroup /sys/fs/cgroup
say root
modprobe -a virtio_console 9pnet_virtio 9p
mkdir -p /lab /payload /run/user/0 /run/user/1000
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 lab /lab
graphics=
for word in $(cat /proc/cmdline); do
    case $word in
    lab.payload) mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 payload /payload ;;
    lab.graphics) graphics=1 ;;
    esac
done
mount -t tmpfs -o nosuid,nodev,mode=700,uid=1000,gid=1000 user /run/user/1000
chmod 700 /run/user/0
echo lab > /proc/sys/kernel/hostname
ip link set lo up
# Both may fail: one processor has one of them, and a lab in a lab has none.
if grep -q -w svm /proc/cpuinfo; then modprobe kvm-amd; elif grep -q -w vmx /proc/cpuinfo; then modprobe kvm-intel; fi
[ -c /dev/kvm ] && chown root:kvm /dev/kvm && chmod 660 /dev/kvm
say kvm
if [ $graphics ]; then
    modprobe -a virtio_gpu evdev xhci-pci usbhid hid-generic
    # libinput and the display search by udev's database: it must be running and have seen the devices.
    /lib/systemd/systemd-udevd --daemon
    udevadm trigger --action=add --subsystem-match=input --subsystem-match=drm --subsystem-match=tty --sysname-match='tty[0-9]'
    udevadm trigger --action=add --subsystem-match=input --subsystem-match=drm
    udevadm settle --timeout=60
    seatd -g video -l error &
    i=0
    while [ ! -S /run/seatd.sock ] && [ $i -lt 200 ]; do usleep 50000; i=$((i + 1)); done
    say graphics
fi
exec /lab/lab-guest
