"""File systems that are interfaces of the kernel (PTH-5)."""

from __future__ import annotations

from typing import Final

#: Kernel interfaces by the magic number of their file system (PTH-5).
FORBIDDEN_FILE_SYSTEMS: Final = {
    0x9FA0: "procfs",
    0x9FA1: "openpromfs",
    0x9FA2: "usbdevfs",
    0x62656572: "sysfs",
    0x62656570: "configfs",
    0x0027E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xF97CFF8C: "selinuxfs",
    0x43415D53: "smackfs",
    0x5A3C69F0: "apparmorfs",
    0xCAFE4A11: "bpf",
    0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs",
    0x1CD1: "devpts",
    0x19800202: "mqueue",
    0x42494E4D: "binfmt_misc",
    0x6E736667: "nsfs",
    0x7655821: "resctrl",
    0x65735543: "fusectl",
    0x67596969: "rpc_pipefs",
    0x6E667364: "nfsd",
    0x6C6F6F70: "binder",
    0xABBA1974: "xenfs",
}
