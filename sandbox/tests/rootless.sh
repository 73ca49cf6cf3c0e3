#!/bin/sh
# Runs the tests of the sandbox and of the store as an ordinary user with subordinate ids: everything that
# they do as root they do in a user namespace. Needs root, to make the user, and uidmap and util-linux.
set -eu
cd "$(dirname "$0")/../.."
user=kiln-suite-$$
home=$(mktemp -d)
trap 'userdel "$user"; rm -rf "$home"' EXIT
useradd --no-create-home --home-dir "$home" "$user"
mkdir "$home/tmp"
for crate in kiln-sandbox kiln-cache; do
  cargo test -q -p "$crate" --lib --tests --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' >"$home/programs"
  while read -r program; do
    cp "$program" "$home/${crate}-$(basename "$program")"
  done <"$home/programs"
done
chown -R "$user:" "$home"
chmod 755 "$home"
for program in "$home"/kiln-*; do
  echo "$(basename "$program")"
  setpriv --reuid "$user" --regid "$user" --init-groups env HOME="$home" TMPDIR="$home/tmp" CARGO_MANIFEST_DIR="$home" \
    unshare --user --map-root-user --map-auto -- sh -c 'cd "$HOME" && exec "$0" -q' "$program"
done
