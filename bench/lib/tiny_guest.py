# SPDX-License-Identifier: Apache-2.0
"""The smallest guests there are, assembled here: they write one byte to the serial port and halt."""
import struct

MARK = "V"

# mov dx, 0x3f8; mov al, 'V'; out dx, al; again: cli; hlt; jmp again. The same bytes in 16-bit and in 32-bit code,
# except for the width of the immediate.
_REAL_MODE = bytes.fromhex("ba f8 03 b0 56 ee fa f4 eb fc")
_PROTECTED_MODE = bytes.fromhex("ba f8 03 00 00 b0 56 ee fa f4 eb fc")

_LOAD_ADDRESS = 1 << 20
_XEN_ELFNOTE_PHYS32_ENTRY = 18  # Xen public/elfnote.h


def firmware() -> bytes:
    """A 64 KiB ROM whose first instruction, at the reset vector (SDM vol. 3A, 10.1.4), is the guest's first."""
    rom = bytearray(64 << 10)
    rom[0xfff0:0xfff0 + len(_REAL_MODE)] = _REAL_MODE
    return bytes(rom)


def pvh_kernel() -> bytes:
    """An ELF64 with the PVH entry note: what both monitors boot without the guest's own loader."""
    note = struct.pack("<III4sQ", 4, 8, _XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", _LOAD_ADDRESS)
    headers_end = 64 + 2 * 56
    note_offset, code_offset = headers_end, 0x1000
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, code_offset, _LOAD_ADDRESS, _LOAD_ADDRESS,
                       len(_PROTECTED_MODE), len(_PROTECTED_MODE), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, note_offset, 0, 0, len(note), len(note), 4)
    return (elf + load + notes + note).ljust(code_offset, b"\0") + _PROTECTED_MODE
