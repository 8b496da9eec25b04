# The lab's root image from its base archive and our own files. Runs under fakeroot when not root,
# so that the owners in the image are right.
#   $1 base archive  $2 tree of our files  $3 work directory  $4 image
set -e
tree=$3/root
mkdir "$tree"
tar -C "$tree" --numeric-owner --exclude='./dev/*' -xf "$1"
cp -a --no-preserve=ownership "$2/." "$tree/"
mkfs.erofs -x-1 "$4" "$tree"
rm -rf "$tree"
