#!/usr/bin/env bash
# Runs the tests as an ordinary user with subordinate ids, made for it. Needs root, to make the user, and uidmap and
# util-linux.
#
# The whole binary (kiln-cli's `system`, with the conformance cases) is called as the user calls it: it enters its user
# namespace by itself. The crates' own tests run in such a namespace as its root. What needs the machine's root says
# `skipped`, with the reason; these are counted.
#
#   sandbox/tests/rootless.sh [FOLDER…]     of these crates, or of all
set -euo pipefail
cd "$(dirname "$0")/../.."
user=kiln-suite-$$
home=$(mktemp -d)
# Steps' own networks need this device, which most distributions let everybody open.
tun=/dev/net/tun
tun_mode=$(stat -c %a "$tun" 2>/dev/null || true)
trap 'userdel "$user"; rm -rf "$home"; [ -z "$tun_mode" ] || chmod "$tun_mode" "$tun"' EXIT
[ -z "$tun_mode" ] || chmod 666 "$tun"
useradd --no-create-home --home-dir "$home" "$user"
mkdir "$home/tmp" "$home/fixtures" "$home/log"
mkdir -m 700 "$home/run"
fixtures=${KILN_FIXTURES:-${XDG_CACHE_HOME:-$HOME/.cache}/kiln-fixtures}
[ ! -e "$fixtures/recipe" ] || cp -a "$fixtures/." "$home/fixtures/"
chmod 755 "$home"
chown -R "$user:" "$home"

# The tests know their tree by its path. Where a folder on the way is closed to others, the user sees in its place one that
# holds nothing but the way to the tree.
closed=
folder=$PWD
while [ "$folder" != / ]; do
  [[ $(stat -c %A "$folder") == *[xt] ]] || closed=$folder
  folder=$(dirname "$folder")
done
open_way='
  tree=$1 closed=$2 hold=$3 folder=$PWD
  shift 3
  mount --bind "$tree" "$hold"
  mount -t tmpfs -o mode=755 tmpfs "$closed"
  mkdir -p "$tree"
  shopt -s nullglob dotglob
  for entry in "$hold"/*; do
    place=$tree/${entry##*/}
    if [ -d "$entry" ]; then mkdir "$place"; else : >"$place"; fi
    mount --bind "$entry" "$place"
  done
  cd "$folder"
  exec "$@"'
reach=()
if [ -n "$closed" ]; then
  mkdir "$home/hold"
  reach=(unshare --mount --propagation private bash -euc "$open_way" reach "$PWD" "$closed" "$home/hold")
fi

as_user() {
  "${reach[@]}" setpriv --reuid "$user" --regid "$user" --init-groups env -u CI -u DBUS_SESSION_BUS_ADDRESS USER="$user" \
    HOME="$home" TMPDIR="$home/tmp" XDG_CACHE_HOME="$home/.cache" XDG_RUNTIME_DIR="$home/run" \
    KILN_FIXTURES="$home/fixtures" INSTA_WORKSPACE_ROOT="$PWD" INSTA_UPDATE=no RUST_BACKTRACE=0 "$@"
}

# What fails is shown; all of it is in the log.
run() {
  (cd "$manifest" && as_user CARGO_MANIFEST_DIR="$manifest" "$@" -q --nocapture) >>"$log" 2>&1 && return
  tail -n 200 "$log"
  return 1
}

failed=0
# As `make test` builds them, so that nothing is compiled twice.
cargo test -q --locked --workspace --tests --no-run --message-format=json >"$home/built"
programs() {
  python3 -c '
import json, os, sys
for line in open(sys.argv[1]):
    built = json.loads(line)
    if built.get("executable") and built["profile"]["test"]:
        print(os.path.dirname(built["manifest_path"]), built["executable"])
' "$home/built"
}
while read -r manifest program <&3; do
  folder=$(basename "$manifest") name=$(basename "$program")
  case " ${*:-$folder} " in *" $folder "*) ;; *) continue ;; esac
  log=$home/log/$folder-$name
  echo "$folder: $name"
  namespace=(unshare --user --map-root-user --map-auto --)
  case $name in
    system-*) run "$program" && run "${namespace[@]}" "$program" property:: ;;
    *) run "${namespace[@]}" "$program" ;;
  esac || failed=1
  grep -E '^test result' "$log" || true
  grep -hoE 'skipped.*' "$log" | sort | uniq -c || true
done 3< <(programs)
exit $failed
