#pragma once
/* A sequence's rows of queries among those of all: the first, and how many. */
INLINE uint queries_of(uint has_starts, uint n_queries, uint n_query_rows,
                       GLOBAL const uint *starts, uint sequence, uint *first)
{
    *first = sequence * n_queries;
    if (!has_starts)
        return n_queries;
    uint begin = starts[sequence], end = starts[sequence + 1];
    begin = begin < n_query_rows ? begin : n_query_rows;
    end = end < n_query_rows ? end : n_query_rows;
    *first = begin;
    uint n = end > begin ? end - begin : 0;
    return n < n_queries ? n : n_queries;
}
