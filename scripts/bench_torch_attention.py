"""torch's bf16 attention with grouped queries, for doc/gpu.md: medians of device
times, keys and values beyond the L2 cache."""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def time_us(call, repeats=30):
    for _ in range(5):
        call(0)
    times = []
    for i in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call(i)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times)[repeats // 2]


print(torch.__version__, torch.cuda.get_device_name())
for batch, heads, kv_heads, dim, tokens in [(8, 32, 8, 128, 32768), (1, 32, 8, 128, 262144),
                                            (1, 32, 8, 128, 32768)]:
    size = 2 * batch * kv_heads * dim * tokens * 2
    sets = max(1, min(4, (300 << 20) // size + 1))
    query = torch.randn(batch, heads, 1, dim, dtype=torch.bfloat16, device="cuda")
    caches = [[torch.randn(batch, kv_heads, tokens, dim, dtype=torch.bfloat16, device="cuda")
               for _ in range(2)] for _ in range(sets)]
    best = {}
    for backend in BACKENDS:
        def call(i):
            k, v = caches[i % sets]
            with sdpa_kernel([backend]):
                torch.nn.functional.scaled_dot_product_attention(query, k, v, enable_gqa=True)
        try:
            best[backend.name] = time_us(call)
        except RuntimeError:
            pass
    print((batch, heads, kv_heads, dim, tokens),
          {name: f"{us:.1f} us" for name, us in best.items()})
    del caches
    torch.cuda.empty_cache()
