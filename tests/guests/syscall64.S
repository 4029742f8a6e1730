/* SPDX-License-Identifier: Apache-2.0 */
/* Ring 3: IRETQ down, SYSCALL and SYSRET, SWAPGS, faults of the user through the TSS stack, 32-bit user code, IOPL. */
#define MODE 64
#include "runtime.h"
main:
    /* open all of memory to the user */
    orq $4, PML4
    mov $PDPT, %edi
    mov $4, %ecx
1:  orq $4, (%rdi)
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $PD0, %edi
    mov $16, %ecx
1:  orq $4, (%rdi)
    add $8, %edi
    dec %ecx
    jnz 1b
    mov %cr3, %rax
    mov %rax, %cr3
    mov $0xc0000081, %ecx           /* STAR: SYSCALL 10/18, SYSRET 33/2b (20 + 16, 20 + 8) */
    xor %eax, %eax
    mov $(0x0010 | 0x0023 << 16), %edx
    wrmsr
    inc %ecx                        /* LSTAR */
    mov $system_call, %eax
    xor %edx, %edx
    wrmsr
    mov $0xc0000084, %ecx           /* SFMASK: IF, DF */
    mov $0x600, %eax
    wrmsr
    mov $0xc0000102, %ecx           /* KERNEL_GS_BASE */
    mov $HEAP, %eax
    wrmsr
    mov $0xc0000101, %ecx
    mov $HEAP + 0x1000, %eax
    wrmsr
    movq $0x1111, HEAP
    movq $0x2222, HEAP + 0x1000
    mov %rsp, kernel_stack
    pushq $UDATA
    pushq $USER_STACK_TOP
    pushq $0x602                    /* IF and DF: SFMASK clears them */
    pushq $UCODE64
    pushq $user
    iretq

user:
    mov %cs, %eax
    cmp $UCODE64, %eax
    CHECK(e)                        /* (would exit: port access in ring 3 faults, which fails as well) */
    mov $1, %edi
    syscall
user_after:
    mov $0x1111, %edx
    cmp %rdx, %rax
    jne user_fail
    pushfq
    pop %rax
    bt $10, %eax
    jnc user_fail
    mov %gs:0, %rax
    cmp $0x2222, %rax
    jne user_fail
    /* faults of the user */
    movq $1f, resume_user
    cli
    ud2
1:  cmpq $13, last_vector
    jne user_fail
    mov $2, %edi
    syscall
    ud2
user_fail:
    mov $3, %edi
    syscall

system_call:
    cld
    cmp $1, %edi
    je 1f
    cmp $2, %edi
    je 2f
    mov kernel_stack, %rsp
    FAIL
1:  swapgs
    mov %gs:0, %rax
    swapgs
    cmp $user_after, %rcx
    jne 3f
    bt $10, %r11d
    jnc 3f
    sysretq
3:  FAIL
2:  mov kernel_stack, %rsp
    /* #GP came from ring 3 onto RSP0 */
    cmpq $UCODE64, last_cs
    CHECK(e)
    cmpq $UDATA, last_ss
    CHECK(e)
    cmpq $USER_STACK_TOP, last_rsp
    CHECK(e)
    mov handler_rsp, %rax
    cmp $STACK_TOP - 0x1000 - 64, %rax
    CHECK(e)
    /* error code of a user's page fault */
    PASS
    .balign 8
kernel_stack: .quad 0
resume_user = resume_rip
