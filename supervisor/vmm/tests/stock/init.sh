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
# Host devices, if there are any: each says what it has done. What is missing, the kernel may know of.
complain() { $b dmesg | $b grep -i "$1" | $b sed 's/^/stock: kernel: /'; }
for disk in /dev/nvme?n1; do
    [ -b "$disk" ] || continue
    echo "stock: nvme reads $($b head -n 1 "$disk")"
    # To the second half and back, past the page cache.
    $b dd if="$disk" of=/first bs=64k count=64 2> /dev/null
    $b dd if=/first of="$disk" bs=64k seek=128 count=64 conv=notrunc,fsync 2> /dev/null
    echo 3 > /proc/sys/vm/drop_caches
    $b dd if="$disk" of=/second bs=64k skip=128 count=64 2> /dev/null
    $b cmp /first /second && echo "stock: nvme has copied $($b wc -c < /second) bytes"
    $b rm -f /first /second
done
if [ -e /sys/class/net/eth0 ]; then
    $b ifconfig eth0 10.0.2.15 up
    try=0
    while ! $b ping -c 1 -W 1 10.0.2.2 > /dev/null && [ $try -lt 60 ]; do try=$((try + 1)); done
    echo "stock: network: $($b ping -c 5 -s 1400 -W 5 10.0.2.2 | $b grep received)"
fi
if [ -e /sys/bus/usb/devices/usb1 ]; then
    try=0
    # As many sticks as controllers.
    last=/dev/sda
    [ -e /sys/bus/usb/devices/usb3 ] && last=/dev/sdb
    while [ $try -lt 100 ] && ! [ -b $last ]; do
        $b usleep 200000
        try=$((try + 1))
    done
    for product in /sys/bus/usb/devices/*-*/product; do
        [ -e "$product" ] && echo "stock: usb has $($b cat "$product")"
    done
    for stick in /dev/sd?; do
        [ -b "$stick" ] && echo "stock: usb reads $($b head -n 1 "$stick")"
    done
    $b sed -n 's/.*\(IO-APIC.*xhci[-_]hcd.*\)/stock: line: \1/p' /proc/interrupts
    [ -b $last ] || complain 'usb\|xhci'
fi
# A device that reads and writes memory where it is told (QEMU's edu): inside of this VM, then where nothing is.
for device in /sys/bus/pci/devices/*; do
    [ "$($b cat "$device/vendor" "$device/device" | $b tr '\n' ' ')" = "0x1234 0x11e8 " ] || continue
    printf '\006\000' | $b dd of="$device/config" bs=1 seek=4 conv=notrunc 2> /dev/null
    bar=$($b head -n 1 "$device/resource")
    bar=${bar%% *}
    register() { $b printf '0x%x' $((bar + $1)); }
    $b devmem "$(register 4)" 32 0x12345678
    [ "$($b devmem "$(register 4)" 32)" = 0xEDCBA987 ] && echo "stock: stray device answers"
    transfer() {
        $b devmem "$(register 0x80)" 64 "$1"
        $b devmem "$(register 0x88)" 64 "$2"
        $b devmem "$(register 0x90)" 64 64
        $b devmem "$(register 0x98)" 64 "$3"
        try=0
        while [ $(($($b devmem "$(register 0x98)" 64) & 1)) = 1 ] && [ $try -lt 200 ]; do
            $b usleep 50000
            try=$((try + 1))
        done
    }
    # The kernel's code into the device; what the device has to an address that this VM has no memory at.
    transfer 0x1000000 0x40000 1
    transfer 0x40000 0x80000000 3
    echo "stock: stray device has written"
    for disk in /dev/nvme?n1; do
        echo 3 > /proc/sys/vm/drop_caches
        [ -b "$disk" ] && $b dd if="$disk" of=/dev/null bs=64k count=64 2> /dev/null && echo "stock: nvme reads on"
    done
done
# A sound card: plays, then records until whoever watches has given and taken a grant.
if [ -e /dev/snd/pcmC0D0p ]; then
    echo "stock: card $($b sed -n 's/^ 0 //p' /proc/asound/cards)"
    if ! /sound; then
        complain 'snd\|sound\|virtio'
        echo "stock: sound failed"
    fi
fi
host_device() {
    for place in /sys/class/net/eth0 /sys/class/nvme/nvme0 /sys/bus/usb/devices/usb?; do
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
