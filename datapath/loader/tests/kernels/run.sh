#!/usr/bin/env bash
# Loads the object into other kernels and runs the tests of the policy tables there: Debian's 6.1 and 6.12, in qemu.
#   run.sh [SERIES…]
# Each kernel's instructions are compared with ../instructions.json; WEIR_BPF_UPDATE=1 records them there.
# WEIR_KERNEL_TESTS: other tests than the usual. Exit code 77: could not run, and says why.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
repository=$(cd ../../../.. && pwd)
cache=${CARGO_TARGET_DIR:-$repository/target}/kernels

# What runs there; the rest needs more than there is. All of it takes some five minutes a kernel.
usual="object::loads object::instructions oracle:: enforce::an_endpoint answer::by_ answer::the_host flood:: fragment:: services::a_cluster services::from_outside services::pods_are services::errors dsr:: sockets::"
tests=${WEIR_KERNEL_TESTS:-$usual}
seconds=1200

cannot() {
    echo "KERNELS NOT TESTED: $*" >&2
    exit 77
}

[ "$(uname -m)" = x86_64 ] || cannot "only written for x86_64"
for tool in qemu-system-x86_64 cpio busybox apt-get dpkg-deb xz jq ip ping ethtool bpftool; do
    command -v "$tool" >/dev/null || cannot "$tool is not installed (apt-get install qemu-system-x86 cpio busybox-static xz-utils jq iproute2 iputils-ping ethtool bpftool)"
done

# The newest kernel package of a series, unpacked into the cache; prints where.
kernel() {
    local series=$1 package place
    package=$(apt-cache search -n "^linux-image-${series//./\\.}\.[0-9].*-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -1)
    [ -n "$package" ] || cannot "apt knows no cloud kernel $series (apt-get update?)"
    place=$cache/$package
    if [ ! -d "$place" ]; then
        rm -rf "$place.new"
        mkdir -p "$place.new"
        (cd "$place.new" && apt-get download "$package" >&2) || cannot "$package cannot be downloaded"
        dpkg-deb -x "$place.new"/*.deb "$place.new"
        rm "$place.new"/*.deb
        mv "$place.new" "$place"
    fi
    echo "$place"
}

# Copies programs, with the libraries that they load.
programs() {
    local root=$1 program file
    shift
    for program; do
        program=$(command -v "$program")
        for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p "$root$(dirname "$file")"
            cp -Lu "$file" "$root$file"
        done
    done
}

# The test program, by cargo.
test_program() {
    (cd "$repository" && cargo test --no-run --locked -p datapath-loader --test kernel --message-format=json) |
        jq -r 'select(.executable != null and .target.name == "kernel").executable' | tail -1
}

# image ROOT KERNEL: a file system with the tests in it.
image() {
    local root=$1 kernel=$2 module recorded
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,run/netns,modules}
    programs "$root" "$program" ip ping ethtool bpftool
    cp "$program" "$root/kernel"
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp init "$root/init"
    for module in veth sch_ingress cls_bpf; do
        module=$(find "$kernel/lib/modules" -name "$module.ko*")
        case $module in
            *.xz) xz -dc "$module" >"$root/modules/$(basename "${module%.xz}")" ;;
            *) cp "$module" "$root/modules/" ;;
        esac
    done
    # Where the tests look for what is recorded.
    recorded=$(realpath ../instructions.json)
    mkdir -p "$root$(dirname "$recorded")"
    cp "$recorded" "$root$recorded"
    echo "$tests" >"$root/tests"
    printf 'WEIR_BPF_UPDATE=%s\nRECORDED=%s\n' "${WEIR_BPF_UPDATE:-}" "$recorded" >"$root/settings"
}

program=$(test_program)
[ -x "$program" ] || { echo "the tests do not build" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
[ $# != 0 ] || set -- 6.1 6.12
for series; do
    kernel "$series" >"$work/$series.place" || exit $?
done
for series; do
    kernel=$(<"$work/$series.place")
    image "$work/$series" "$kernel"
    (cd "$work/$series" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/$series.gz"
    log=$cache/$series.log
    echo "== $series: $(basename "$kernel")"
    # Without KVM, so that it runs in virtual machines too.
    timeout "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -nographic -no-reboot \
        -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/$series.gz" \
        -append "console=ttyS0 panic=-1 quiet mitigations=off" </dev/null 2>&1 | tr -d '\r' >"$log" || true
    grep -aE '^(test |test result|running)|verified|panicked|grown|recorded' "$log" || true
    if ! grep -aq '^KERNEL TESTS PASSED$' "$log"; then
        echo "== $series: FAILED, see $log"
        tail -40 "$log"
        failed=1
    elif [ -n "${WEIR_BPF_UPDATE:-}" ]; then
        sed -n '/^RECORDED BEGINS$/,/^RECORDED ENDS$/p' "$log" | sed '1d;$d' >"$work/recorded.json"
        jq -e . "$work/recorded.json" >/dev/null && cp "$work/recorded.json" ../instructions.json
    fi
done
exit "$failed"
