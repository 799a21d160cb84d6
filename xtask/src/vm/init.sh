# The guest's first process. MODULES and COMMAND stand before this text.
export PATH=/bin
/bin/busybox --install /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in virtio_pci 9pnet_virtio 9p overlay; do modprobe $module; done

# The machine's files under what the guest writes.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
mount -t tmpfs changes /changes
mkdir /changes/new /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/new,workdir=/changes/work root /machine
mount -t proc proc /machine/proc
mount -t sysfs sys /machine/sys
mount -t bpf bpf /machine/sys/fs/bpf
mount -t cgroup2 cgroup2 /machine/sys/fs/cgroup
mount -t devtmpfs dev /machine/dev
mkdir -p /machine/dev/pts /machine/dev/shm
mount -t devpts pts /machine/dev/pts
for directory in dev/shm run tmp; do mount -t tmpfs tmpfs /machine/$directory; done

# Where the kernel's own calls of modprobe look.
mount --bind "/host$MODULES" /lib/modules
# Whoever opens its device finds it, where there is udev.
modprobe tun
sysctl -q -w kernel.printk=1
ip link set lo up
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot /machine /bin/sh -c "$COMMAND" </dev/null >/dev/ttyS1 2>&1
status=$?
# qemu's exit code is twice what the port gets and one more, in eight bits; 1 is its own.
if [ $status -gt 125 ]; then
    echo "the command's exit code is $status, which is given as 125" >/dev/ttyS1
    status=125
fi
printf "\\$(printf %o $((status + 1)))" | dd of=/dev/port bs=1 seek=244 2>/dev/null
