/* Loaded into User-Mode Linux (LD_PRELOAD) so that it runs on today's processors.
 *
 * UML keeps the extended registers of a process (NT_X86_XSTATE) in a buffer of a fixed size, 832 bytes: up to AVX. With
 * AVX-512 or AMX they are larger, and the kernel takes only the whole: UML dies at its first program with
 * "ptrace set fp regs failed, errno = 14". Here the rest, which UML has no room for, is kept beside its buffer, and is
 * put behind it again when the registers are set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { XSTATE = 0x202, LARGEST = 32768, SLOTS = 4096, HEADER = 512, UP_TO_AVX = 7 };

struct slot {
    void *owner; /* UML's buffer */
    unsigned char *all;
};
static struct slot slots[SLOTS];
static size_t whole; /* size the kernel wants, learnt from what it gives */

static struct slot *slot_of(void *owner)
{
    size_t at = ((uintptr_t)owner >> 4) * 2654435761u % SLOTS;
    for (size_t i = 0; i < SLOTS; i++, at = (at + 1) % SLOTS) {
        if (slots[at].owner == owner)
            return &slots[at];
        if (!slots[at].owner) {
            slots[at].all = calloc(1, LARGEST);
            if (!slots[at].all)
                abort();
            slots[at].owner = owner;
            return &slots[at];
        }
    }
    abort();
}

static long call(long request, long pid, void *address, void *data)
{
    return syscall(SYS_ptrace, request, pid, address, data);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) { /* glibc's calling convention for these */
        long word;
        return call(request, pid, address, &word) < 0 ? -1 : word;
    }
    if ((uintptr_t)address != XSTATE || (request != PTRACE_GETREGSET && request != PTRACE_SETREGSET))
        return call(request, pid, address, data);

    struct iovec *theirs = data;
    struct slot *slot = slot_of(theirs->iov_base);
    struct iovec ours = { slot->all, LARGEST };
    uint64_t features;

    if (request == PTRACE_GETREGSET) {
        long result = call(request, pid, address, &ours);
        if (result == 0) {
            whole = ours.iov_len;
            if (theirs->iov_len > whole)
                theirs->iov_len = whole;
            memcpy(theirs->iov_base, slot->all, theirs->iov_len);
        }
        return result;
    }
    if (!whole || theirs->iov_len >= whole)
        return call(request, pid, address, data);
    /* What UML has no room for is as this buffer had it last; a new buffer (of a fork) has none of it. */
    memcpy(&features, slot->all + HEADER, sizeof features);
    uint64_t beyond = features & ~(uint64_t)UP_TO_AVX;
    memcpy(slot->all, theirs->iov_base, theirs->iov_len);
    memcpy(&features, slot->all + HEADER, sizeof features);
    features = (features & UP_TO_AVX) | beyond;
    memcpy(slot->all + HEADER, &features, sizeof features);
    ours.iov_len = whole;
    return call(request, pid, address, &ours);
}
