/* SPDX-License-Identifier: Apache-2.0 */
/* Protected mode without paging: faults with error codes, segment limits, strings. */
#define MODE 32
#include "runtime.h"
main:
    EXPECT(6, 0, ud2)
    xor %ecx, %ecx
    mov $1, %eax
    cltd
    EXPECT(0, 0, div %ecx)
    mov $0x1230, %eax
    EXPECT(13, 0x1230, mov %eax, %ds)
    mov $NOT_PRESENT_SELECTOR, %eax
    EXPECT(11, NOT_PRESENT_SELECTOR, mov %eax, %fs)
    mov $SMALL_DATA, %eax
    mov %eax, %fs
    movb %fs:0xff, %al
    EXPECT(13, 0, movb %fs:0x100, %al)
    EXPECT(13, 0, movl %fs:0xfd, %eax)
    xor %eax, %eax
    mov %eax, %fs
    EXPECT(13, 0, movb %fs:0, %al)
    mov $0x55, %al
    mov $0x200000, %edi
    mov $4096, %ecx
    rep stosb
    cmpl $0x55555555, 0x200ffc
    CHECK(e)
    mov $0x200000, %esi
    mov $0x300001, %edi
    mov $1024, %ecx
    rep movsl
    cmpl $0x55555555, 0x300ffd
    CHECK(e)
    cmp $0x301001, %edi
    CHECK(e)
    mov $0x12345678, %eax
    bswap %eax
    cmp $0x78563412, %eax
    CHECK(e)
    mov $message, %esi
    call puts
    PASS
message: .asciz "protected mode\n"
