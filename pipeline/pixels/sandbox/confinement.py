"""What the kernel itself forbids a decoder process, by Linux's Landlock (Documentation/userspace-api/landlock.rst).

From then on and for good, the process opens no file but to read one of Python's own modules or of the system's libraries,
changes and runs none, opens no TCP connection, and signals nobody. What it has open, such as the socket to its owner, stays.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from pathlib import Path

import pipeline

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, on every architecture."""
_ABI_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version of the interface -> every right that it knows: to run, write, read, make, remove, move, cut short, control."""
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/sys/devices/system/cpu")
"""And what libraries read the number of cores from."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine() -> int:
    """Confine this process and all that it starts.

    Returns:
        Version of the kernel's Landlock; from 4 on it forbids TCP, from 6 on signals. 0 where it has none: nothing is forbidden
        then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _ABI_VERSION)
    if version < 1:
        return 0
    files = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    attributes = _Ruleset(files, 0b11 if version >= _TCP_SINCE else 0, 0b11 if version >= _SCOPES_SINCE else 0)
    # Kernels refuse what is longer than they know, unless the rest is zero.
    rules = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0))
    for folder in _readable():
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        beneath = _PathBeneath(_READ_FILE | _READ_DIR, descriptor)
        _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(beneath), 0))
        os.close(descriptor)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)
    return int(version)


def _readable() -> list[str]:
    """Folders of what may yet be imported; not the rest of `sys.path`, where a user's own files may lie."""
    modules = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(pipeline.__file__).parent)]
    packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    folders = [*modules, *packages, *_SYSTEM_LIBRARIES]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
