/* Addresses, and the memory behind some of them. */
#ifndef TQKV_LLAMA_RESERVE_H
#define TQKV_LLAMA_RESERVE_H

#include <stddef.h>

/* Memory that reads as zeros and takes none until it is written, at the start of a page of
 * the system's; null if there are no such addresses left. */
void *reserve_memory(size_t bytes);
/* Addresses alone: whoever reads or writes there ends with a signal. */
void *reserve_addresses(size_t bytes);
void reserve_free(void *base, size_t bytes);

/* Puts memory behind addresses, which keeps what is there already: all of the system's pages
 * that the range touches. 0 without memory. */
int reserve_open(void *from, size_t bytes);
/* Takes it away again: of the system's pages that lie wholly within the range. */
void reserve_close(void *from, size_t bytes);
/* Makes the range zeros again; frees what whole pages of the system it has. */
void reserve_zero(void *from, size_t bytes);

#endif
