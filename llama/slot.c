#include "slot.h"

/* Values in a block of the type, and its bytes. */
static const struct block {
    int type;
    uint16_t values, bytes;
} blocks[] = {{GG_Q4_0, 32, 18}, {GG_IQ4_NL, 32, 18}, {GG_Q4_1, 32, 20}, {GG_Q5_0, 32, 22},
              {GG_Q5_1, 32, 24}, {GG_Q8_0, 32, 34},   {GG_MXFP4, 32, 17},
              {GG_Q2_K, 256, 84}, {GG_Q3_K, 256, 110}};

static const struct block *block_of(int type)
{
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i].type == type)
            return &blocks[i];
    return NULL;
}

int slot_is_type(int type)
{
    return block_of(type) != NULL;
}

enum { SCALE = sizeof(uint16_t), LOWEST_RATE = 32, HIGHEST_RATE = 128, TAG_BITS = 4 };

/* Whether rows end with a byte: others are slow to expand. */
static int is_whole(uint32_t head_dim, unsigned rate)
{
    return head_dim / 16 * rate % 8 == 0;
}

static tqkv_format trellis(uint32_t head_dim, unsigned rate)
{
    return (tqkv_format){.rate = (uint16_t)rate, .head_dim = (uint16_t)head_dim,
                         .codebook = TQKV_CODEBOOK_TRELLIS, .layout = TQKV_LAYOUT_ROW,
                         .rotation = TQKV_ROTATION_HADAMARD};
}

/* 0 if there is no such format. */
static size_t code_bytes(uint32_t head_dim, unsigned rate)
{
    tqkv_format f = trellis(head_dim, rate);
    size_t bytes;
    return tqkv_format_code_bytes(&f, &bytes) == TQKV_OK ? bytes : 0;
}

/* The finest rate, but an eighth of a bit less if that makes rows whole. */
static unsigned finest_rate(uint32_t head_dim, size_t bytes)
{
    unsigned rate = HIGHEST_RATE;
    while (rate >= LOWEST_RATE && code_bytes(head_dim, rate) > bytes)
        rate--;
    for (unsigned whole = rate; whole + 2 >= rate && whole >= LOWEST_RATE; whole--)
        if (is_whole(head_dim, whole))
            return whole;
    return rate;
}

static unsigned bits_for(uint32_t numbers)
{
    unsigned bits = 0;
    while (1u << bits < numbers)
        bits++;
    return bits;
}

const char *slot_init(slot_layout *s, int type, uint32_t head_dim, uint32_t n_centres, int wants_tag,
                      const char *name)
{
    const struct block *b = block_of(type);
    if (!b)
        return "the cache's type is not one that tqkv takes over";
    if (head_dim % b->values)
        return "the head size is not a multiple of the cache type's block";
    *s = (slot_layout){.bytes = head_dim / b->values * b->bytes};
    unsigned rate = finest_rate(head_dim, s->bytes - SCALE);
    s->format = trellis(head_dim, rate);
    if (head_dim > TQKV_MAX_HEAD_DIM || rate < LOWEST_RATE ||
        tqkv_format_check(&s->format) != TQKV_OK)
        return "tqkv has no format for this head size";
    if (name && (tqkv_format_parse(name, head_dim, &s->format) != TQKV_OK ||
                 s->format.layout != TQKV_LAYOUT_ROW))
        return "the format asked for does not exist for this head size";
    size_t codes;
    tqkv_format_code_bytes(&s->format, &codes);
    if (codes + SCALE > s->bytes)
        return "the format asked for does not fit the cache type's bytes";
    s->scale_at = codes;
    if (n_centres > 1 && codes + SCALE < s->bytes)
        s->centre_at = codes + SCALE;
    else if (n_centres > 1)
        s->spare_bits = bits_for(n_centres);
    if (wants_tag && !s->spare_bits)
        s->spare_bits = s->tag_bits = TAG_BITS;
    return NULL;
}

tqkv_rows slot_rows(const slot_layout *s, void *base, size_t stride)
{
    uint8_t *at = base;
    return (tqkv_rows){.codes = at, .scales = at + s->scale_at,
                       .centres = s->centre_at ? at + s->centre_at : NULL,
                       .code_stride = stride, .scale_stride = stride,
                       .centre_stride = s->centre_at ? stride : 0,
                       .spare_bits = s->spare_bits};
}
