#!/bin/busybox sh
# /init of a stock kernel: says what it sees, and looks for disks that come and go.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
echo "stock: up"
echo "stock: code $($b sed -n 's/^ *\(.*\) : Kernel code$/\1/p' /proc/iomem)"
echo "stock: model $($b sed -n 's/^model name.*: //p' /proc/cpuinfo | $b head -n 1)"
echo "stock: flags $($b sed -n 's/^flags.*: //p' /proc/cpuinfo | $b head -n 1)"
$b dmesg | $b grep 'ACPI.*\(Error\|Exception\|Warning\)' | $b sed 's/^/stock: complaint /'
echo "stock: cpus $($b grep -c ^processor /proc/cpuinfo)"
# Host devices, if there are any: each says what it has done.
for disk in /dev/nvme?n1; do
    [ -b "$disk" ] && echo "stock: nvme reads $($b head -n 1 "$disk")"
done
if [ -e /sys/class/net/eth0 ]; then
    $b ifconfig eth0 10.0.2.15 up
    try=0
    while ! $b ping -c 1 -W 1 10.0.2.2 > /dev/null && [ $try -lt 60 ]; do try=$((try + 1)); done
    $b ping -c 1 -W 5 10.0.2.2 > /dev/null && echo "stock: network answers"
fi
if [ -e /sys/bus/usb/devices/usb1 ]; then
    try=0
    while [ $try -lt 100 ] && ! $b cat /sys/bus/usb/devices/*-*/product > /dev/null 2>&1; do
        $b usleep 200000
        try=$((try + 1))
    done
    for product in /sys/bus/usb/devices/*-*/product; do
        echo "stock: usb has $($b cat "$product")"
    done
fi
host_device() {
    for place in /sys/class/net/eth0 /sys/class/nvme/nvme0 /sys/bus/usb/devices/usb1; do
        [ -e "$place" ] && return 0
    done
    return 1
}
had=
host_device && had=yes

$b mkdir /known
while :; do
    for disk in /sys/block/vd*; do
        name=${disk##*/}
        [ -b "/dev/$name" ] && [ ! -e "/known/$name" ] || continue
        $b cat "$disk/serial" > "/known/$name"
        serial=$($b cat "/known/$name")
        echo "stock: found $serial: $($b head -n 1 "/dev/$name")"
        echo "written by guest" | $b dd of="/dev/$name" bs=512 seek=1 conv=notrunc,fsync 2> /dev/null
        echo "stock: wrote $serial"
    done
    for known in /known/*; do
        name=${known##*/}
        [ -e "$known" ] && [ ! -e "/sys/block/$name" ] || continue
        echo "stock: lost $($b cat "$known")"
        $b rm "$known"
    done
    if [ -n "$had" ] && ! host_device; then
        had=
        echo "stock: no host device"
    fi
    $b usleep 50000
done
