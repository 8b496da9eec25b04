# One root image from a base archive, our own files and the kernel's modules. Runs under fakeroot, so that owners in the
# image are right although a person without privileges makes it.
#   $1 base archive  $2 tree of our files  $3 modules directory of the kernel  $4 work directory  $5 image  $6 MiB
set -e
tree=$4/root-tree
rm -rf "$tree"
mkdir "$tree"
tar -C "$tree" --numeric-owner --exclude=./dev/* -xf "$1"
cp -a --no-preserve=ownership "$2/." "$tree/"
mkdir -p "$tree/usr/lib/modules" "$tree/rw"
cp -a --no-preserve=ownership "$3" "$tree/usr/lib/modules/"
# The person's home is filled from here when a private volume is new.
rm -f "$5"
truncate -s "$6M" "$5"
mke2fs -q -t ext4 -O ^has_journal -E nodiscard,lazy_itable_init=1 -m 0 -L casemate-root -d "$tree" "$5"
cp "$tree/usr/share/casemate-packages" "$4/packages"
rm -rf "$tree"
