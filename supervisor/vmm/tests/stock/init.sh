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
    $b usleep 50000
done
