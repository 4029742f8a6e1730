/* SPDX-License-Identifier: Apache-2.0 */
/* The shared runtime of the test guests. A guest says
 *     #define MODE 16 | 32 | 64
 *     #include "runtime.h"
 *     main: ...
 * and starts at `main` in that mode: flat segments, interrupts off, a stack, and (32, 64) an IDT whose handlers count
 * interrupts in irq_count[] and record exceptions in last_*. 64: the first 4 GiB are mapped one to one by 2 MiB pages.
 * The flat binary is loaded and entered at 0x8000 in real mode. It ends by PASS or, with the line, by a failing CHECK. */

#define DEBUG_PORT 0xe9 /* a character */
#define EXIT_PORT 0xf4  /* u32: 0 passed, else the line of the check that failed; 0x10000 + vector: unexpected exception */

/* The test device (guest_harness.h): memory-mapped and port ranges. */
#define DEV 0xd0000000
#define DEV_LAST_SIZE (DEV + 0x100)   /* size of the last scratch access */
#define DEV_ACCESSES (DEV + 0x108)    /* number of scratch accesses; writing clears */
#define DEV_MSI_ADDRESS (DEV + 0x110)
#define DEV_MSI_DATA (DEV + 0x118)    /* writing sends the message */
#define DEV_MSI_DELAY_MS (DEV + 0x120) /* writing sends it that much later, from another thread */
#define DEV_EXTINT (DEV + 0x128)      /* PIC stub: requests this vector */
#define DEV_NMI (DEV + 0x130)         /* NMI to this vCPU */
#define DEV_LEVEL (DEV + 0x138)       /* IOAPIC stub: routes pin 5 to this vector, level-triggered, and asserts it once */
#define DEV_EOIS (DEV + 0x140)        /* EOIs of that vector reported by the engine */
#define DEV_BELL (DEV + 0x148)        /* a doorbell: 4-byte writes */
#define DEV_BELL_COUNT (DEV + 0x150)  /* how often it rang */
#define DEV_ROUTE (DEV + 0x158)       /* sends the MSI through an MsiRoute's eventfd */
#define DEV_NMI_DELAY_MS (DEV + 0x160)
#define PIO_SCRATCH 0x200 /* eight bytes */
#define PIO_COUNTER 0x208 /* each byte read is one more than the last, whatever the access size */
#define PIO_SUM 0x209     /* bytes written are added up; reading gives the sum and clears it */

#define LAPIC 0xfee00000

#define PASS xor %eax, %eax; jmp finish
#define FAIL mov $__LINE__, %eax; jmp finish
#define CHECK(cc) j##cc 99f; mov $__LINE__, %eax; jmp finish; 99:

#define KCODE32 0x08
#define KCODE64 0x10
#define KDATA 0x18
#define UCODE32 0x23
#define UDATA 0x2b
#define UCODE64 0x33
#define TSS_SELECTOR 0x38
#define NOT_PRESENT_SELECTOR 0x60
#define SMALL_DATA 0x68

/* Fixed places above the image. */
#define PML4 0x100000
#define PDPT 0x101000
#define PD0 0x102000                /* four of them */
#define IDT 0x106000
#define TSS 0x107000
#define STACK_TOP 0x110000
#define USER_STACK_TOP 0x118000
#define IST1_TOP 0x11c000
#define HEAP 0x200000               /* free for guests, up to the end of RAM at 16 MiB */

#if MODE == 64
#define MOVX movq
#define CMPX cmpq
#else
#define MOVX movl
#define CMPX cmpl
#endif
/* Runs one instruction that must raise exactly this exception there (faults: RIP of the instruction itself). */
#define EXPECT(vector, error, ...)                                          \
    MOVX $97f, resume_rip; 98: __VA_ARGS__; FAIL; 97:                        \
    CMPX $vector, last_vector; CHECK(e) CMPX $error, last_error; CHECK(e)     \
    CMPX $98b, last_rip; CHECK(e)

    .text
    .code16
    .globl _start
_start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
#if MODE == 16
    jmp main

finish:                             /* EAX */
    mov $EXIT_PORT, %dx
    outl %eax, %dx
1:  hlt
    jmp 1b

puts:                               /* SI */
    lodsb
    test %al, %al
    jz 1f
    out %al, $DEBUG_PORT
    jmp puts
1:  ret
#else
    jmp enter_protected

    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 08 code 32 */
    .quad 0x00af9b000000ffff        /* 10 code 64 */
    .quad 0x00cf93000000ffff        /* 18 data */
    .quad 0x00cffb000000ffff        /* 20 user code 32 */
    .quad 0x00cff3000000ffff        /* 28 user data */
    .quad 0x00affb000000ffff        /* 30 user code 64 */
    .quad 0x0000000000000000, 0     /* 38 TSS, filled in */
    .quad 0x008f93000000000f        /* 48 data, limit ffff (page granular: see basic32) */
    .quad 0x00009b000000ffff        /* 50 code 16 */
    .quad 0x000093000000ffff        /* 58 data 16 */
    .quad 0x00401300000000ff        /* 60 not present */
    .quad 0x00409300000000ff        /* 68 data of 256 bytes */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad IDT

enter_protected:
    lgdtl gdt_pointer
    mov %cr0, %eax
    or $1, %eax
    and $0x9fffffff, %eax           /* caches on */
    mov %eax, %cr0
    ljmpl $KCODE32, $protected
    .code32
protected:
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov $STACK_TOP, %esp
#if MODE == 32
    mov $256, %ecx
    mov $IDT, %edi
    mov $stubs, %eax
1:  movw %ax, (%edi)
    movw $KCODE32, 2(%edi)
    movw $0x8e00, 4(%edi)
    mov %eax, %edx
    shr $16, %edx
    movw %dx, 6(%edi)
    add $8, %edi
    add $16, %eax
    loop 1b
    lidt idt_pointer
    jmp main

finish:                             /* EAX */
    mov $EXIT_PORT, %edx
    outl %eax, %dx
1:  hlt
    jmp 1b

puts:                               /* ESI */
    lodsb
    test %al, %al
    jz 1f
    out %al, $DEBUG_PORT
    jmp puts
1:  ret

    .balign 16
stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    pushl $0
    .endif
    pushl $vector
    jmp exception
    .set vector, vector + 1
    .endr

/* Stack: EDI vector, error code, EIP, CS, EFLAGS [, ESP, SS] */
exception:
    pushl %eax
    mov 4(%esp), %eax
    cmpl $32, %eax
    jae interrupt
    mov %eax, last_vector
    mov 8(%esp), %eax
    mov %eax, last_error
    mov 12(%esp), %eax
    mov %eax, last_rip
    mov 16(%esp), %eax
    mov %eax, last_cs
    mov 20(%esp), %eax
    mov %eax, last_flags
    mov %cr2, %eax
    mov %eax, last_cr2
    cmpl $0, resume_rip
    je unexpected
    /* No IRET: the handler of a test simply goes on elsewhere, at the interrupted stack level. */
    pop %eax
    add $20, %esp
    pushl resume_rip
    movl $0, resume_rip
    ret
unexpected:
    mov last_vector, %eax
    add $0x10000, %eax
    jmp finish
interrupt:
    lock incl irq_count(,%eax,8)
    cmpl $0x30, %eax
    jb 1f
    movl $0, LAPIC + 0xb0
1:  pop %eax
    add $8, %esp
    iretl
#else
    /* Long mode. A second processor comes here too and finds the tables made. */
    mov $PML4, %edi
    cmpl $0, (%edi)
    jne 3f
    movl $(PDPT + 7), PML4
    mov $PDPT, %edi
    mov $(PD0 + 7), %eax
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $8, %edi
    add $0x1000, %eax
    loop 1b
    mov $PD0, %edi
    mov $0x83, %eax                 /* present, writable, 2 MiB; supervisor */
    mov $2048, %ecx
2:  mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    loop 2b
3:  mov $0x6a0, %eax                /* PAE PGE OSFXSR OSXMMEXCPT */
    mov %eax, %cr4
    mov $PML4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax                 /* SCE LME NXE */
    wrmsr
    mov %cr0, %eax
    or $0x80010022, %eax            /* PG WP NE MP */
    and $0xfffffff3, %eax           /* no EM, TS */
    mov %eax, %cr0
    ljmpl $KCODE64, $long_mode
    .code64
long_mode:
#ifdef SMP_GUEST
    /* Who comes first is the bootstrap processor. */
    mov $1, %eax
    lock xadd %eax, processors_started
    test %eax, %eax
    jz 4f
    shl $12, %eax
    lea STACK_TOP(%eax), %esp       /* a page of stack each */
    lidt idt_pointer
    jmp ap_main
4:
#endif
    mov $256, %ecx
    mov $IDT, %edi
    mov $stubs, %eax
1:  movw %ax, (%rdi)
    movw $KCODE64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    mov %eax, %edx
    shr $16, %edx
    movw %dx, 6(%rdi)
    add $16, %rdi
    add $16, %eax
    dec %ecx
    jnz 1b
    lidt idt_pointer
    movw $0x67, gdt + TSS_SELECTOR
    mov $(TSS), %eax
    movw %ax, gdt + TSS_SELECTOR + 2
    shr $16, %eax
    movb %al, gdt + TSS_SELECTOR + 4
    movb $0x89, gdt + TSS_SELECTOR + 5
    movq $STACK_TOP - 0x1000, TSS + 4   /* RSP0 */
    movq $IST1_TOP, TSS + 36
    mov $TSS_SELECTOR, %eax
    ltr %ax
    jmp main

finish:                             /* EAX */
    mov $EXIT_PORT, %edx
    outl %eax, %dx
1:  hlt
    jmp 1b

puts:                               /* RSI */
    lodsb
    test %al, %al
    jz 1f
    out %al, $DEBUG_PORT
    jmp puts
1:  ret

enable_lapic:
    mov $LAPIC, %eax
    movl $0x1ff, 0xf0(%rax)
    ret

    .balign 16
stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .set vector, vector + 1
    .endr

/* Stack: RAX, vector, error code, RIP, CS, RFLAGS, RSP, SS */
exception:
    push %rax
    mov 8(%rsp), %rax
    cmp $32, %rax
    jae interrupt
    cmp $2, %rax
    je interrupt
    mov %rax, last_vector
    mov 16(%rsp), %rax
    mov %rax, last_error
    mov 24(%rsp), %rax
    mov %rax, last_rip
    mov 32(%rsp), %rax
    mov %rax, last_cs
    mov 40(%rsp), %rax
    mov %rax, last_flags
    mov 48(%rsp), %rax
    mov %rax, last_rsp
    mov 56(%rsp), %rax
    mov %rax, last_ss
    mov %cr2, %rax
    mov %rax, last_cr2
    mov %rsp, handler_rsp
    cmpq $0, resume_rip
    je unexpected
    /* No IRET: the handler of a test simply goes on elsewhere, at the interrupted stack level. */
    pop %rax
    mov last_rsp, %rsp
    push resume_rip
    movq $0, resume_rip
    ret
unexpected:
    mov last_vector, %eax
    add $0x10000, %eax
    jmp finish
interrupt:
    lock incq irq_count(,%rax,8)
    cmp $0x30, %rax
    jb 1f
    mov $LAPIC, %eax
    movl $0, 0xb0(%rax)
1:
#ifdef NO_IRET
    /* For emulators without IRET: as far as a test is concerned the same, within ring 0. */
    mov 48(%rsp), %rax
    sub $24, %rax
    push %rbx
    mov 8(%rsp), %rbx
    mov %rbx, 0(%rax)
    mov 48(%rsp), %rbx
    mov %rbx, 8(%rax)
    mov 32(%rsp), %rbx
    mov %rbx, 16(%rax)
    pop %rbx
    mov %rax, %rsp
    pop %rax
    popfq
    ret
#else
    pop %rax
    add $16, %rsp
    iretq
#endif
#ifdef SMP_GUEST
    .balign 8
processors_started: .quad 0
#endif
#endif /* 64 */

    .balign 8
resume_rip:  .quad 0
last_vector: .quad 0
last_error:  .quad 0
last_rip:    .quad 0
last_cs:     .quad 0
last_flags:  .quad 0
last_rsp:    .quad 0
last_ss:     .quad 0
last_cr2:    .quad 0
handler_rsp: .quad 0
irq_count:   .fill 256, 8, 0
#endif /* not 16 */
