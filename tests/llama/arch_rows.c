/* What each architecture needs beyond the usual metadata, and what comes of it. */
#include "arch_model.h"

/* All experts are used: which ones a router takes would turn the smallest error
 * into another answer, with tqkv as without. */
#define MOE                                                                                       \
    "expert_count=2;expert_used_count=2;expert_feed_forward_length=E;"                            \
    "expert_shared_feed_forward_length=E/2;expert_shared_count=1;expert_gating_func=2;"           \
    "expert_latent_length=E;interleave_moe_layer_step=2;expert_group_scale=1.;"                   \
    "experts_per_group=1;expert_weights_scale=1.;expert_weights_norm=true;"
#define MLA                                                                                       \
    "attention.head_count_kv=1;attention.key_length=192;attention.value_length=128;"              \
    "attention.key_length_mla=128;attention.value_length_mla=64;rope.dimension_count=64;"         \
    "attention.q_lora_rank=64;attention.kv_lora_rank=128;"
#define INDEXER                                                                                   \
    "attention.indexer.head_count=4;attention.indexer.key_length=64;"                             \
    "attention.indexer.top_k=131072;attention.indexer.block_size=4;attention.indexer.kpool=4;"    \
    "attention.indexer.kpool_select_tail=true;attention.indexer.local_blocks=1;"
#define HYBRID_HEADS "attention.head_count=[H,0...];attention.head_count_kv=[K,0...];"
#define HYBRID_HEADS_MLA "attention.head_count_kv=[1,0...];"
#define WINDOWS "attention.sliding_window_pattern=[0,1...];"

#define PLAIN(n) {.name = n}
#define WITH(n, k) {.name = n, .keys = k}
#define VARIANT(n, v, k) {.name = n, .keys = k, .variant = v}
#define MHA(n, k) {.name = n, .keys = k, .flags = ARCH_ALL_HEADS_HAVE_KEYS}
/* Of attention that does not divide by the square root of head_dim. */
#define GAIN(g, n, k) {.name = n, .keys = k, .gain = g}
#define ROUGH(n, k) {.name = n, .keys = k, .flags = ARCH_ROUGH}
#define ONE_SHAPE(n, k) {.name = n, .keys = k, .flags = ARCH_FIRST_SHAPE_ONLY}
#define NO_CACHE(n, k, why) {.name = n, .keys = k, .fate = ARCH_NO_CACHE, .reason = why}
#define UNMADE(n, why) {.name = n, .fate = ARCH_UNMADE, .reason = why}
#define LEFT(n, k, why)                                                                        \
    {.name = n, .keys = k, .fate = ARCH_LEFT_BY_TQKV, .reason = why,                           \
     .flags = ARCH_FIRST_SHAPE_ONLY}
#define LEFT_IN_PART(n, k, why)                                                                \
    {.name = n, .keys = k, .fate = ARCH_LEFT_BY_TQKV, .reason = why,                           \
     .flags = ARCH_FIRST_SHAPE_ONLY | ARCH_LEFT_IN_PART}

const arch_row arch_rows[] = {
    UNMADE("clip", "not a model of its own"),
    PLAIN("llama"),
    VARIANT("llama", "moe", MOE),
    WITH("llama4", MOE),
    PLAIN("deci"),
    PLAIN("falcon"),
    {.name = "grok", .keys = MOE, .fate = ARCH_LEFT_BY_TQKV, .reason = "transposed", .flags =
     ARCH_F16_ONLY},
    PLAIN("gpt2"),
    UNMADE("gptj", "llama.cpp has no graph for it"),
    PLAIN("gptneox"),
    VARIANT("gptneox", "one after the other", "use_parallel_residual=false;"),
    WITH("mpt", "attention.max_alibi_bias=8.;attention.clamp_kqv=4.;"),
    PLAIN("baichuan"),
    PLAIN("starcoder"),
    PLAIN("refact"),
    NO_CACHE("bert", ".tokenizer.ggml.token_type_count=2;", "an encoder"),
    NO_CACHE("modern-bert", "", "an encoder"),
    NO_CACHE("nomic-bert", ".tokenizer.ggml.token_type_count=2;", "an encoder"),
    NO_CACHE("nomic-bert-moe", MOE "moe_every_n_layers=2;" ".tokenizer.ggml.token_type_count=2;",
     "an encoder"),
    NO_CACHE("neo-bert", "", "an encoder"),
    {.name = "jina-bert-v2", .keys = ".tokenizer.ggml.token_type_count=2;", .fate = ARCH_NO_CACHE,
     .reason = "an encoder", .flags = ARCH_ALL_HEADS_HAVE_KEYS},
    NO_CACHE("jina-bert-v3", ".tokenizer.ggml.token_type_count=2;", "an encoder"),
    NO_CACHE("eurobert", "", "an encoder"),
    PLAIN("bloom"),
    PLAIN("stablelm"),
    PLAIN("qwen"),
    PLAIN("qwen2"),
    WITH("qwen2moe", MOE),
    PLAIN("qwen2vl"),
    PLAIN("qwen3"),
    WITH("qwen3moe", MOE),
    WITH("qwen3next", MOE "ssm.inner_size=H*64;"),
    PLAIN("qwen3vl"),
    WITH("qwen3vlmoe", MOE),
    WITH("qwen35", "ssm.inner_size=H*64;"),
    WITH("qwen35moe", MOE "ssm.inner_size=H*64;"),
    LEFT_IN_PART("qwen4exp", MOE INDEXER "ssm.inner_size=H*64;attention.indexer.key_length=D;"
     "hyper_connection.count=4;hyper_connection.sinkhorn_iterations=2;"
     "hyper_connection.epsilon=1e-6;hyper_connection.low_rank=8;hyper_connection.magnitude=2.;"
     "ple.layers=[0];ple.ngram_size=3;ple.heads_per_ngram=2;ple.conv_kernel=4;"
     "ple.eos_token_id=0;embedding_length_per_layer_input=E/4;ple.layer_multipliers=l[1,3,5];"
     "ple.head_offsets=l[0,V,V*2,V*3];ple.head_vocab_sizes=l[V,V,V,V];"
     "attention.compress_ratios=[4...];", "GET_ROWS"),
    PLAIN("phi2"),
    PLAIN("phi3"),
    WITH("phimoe", MOE),
    PLAIN("plamo"),
    ROUGH("plamo2", HYBRID_HEADS "ssm.group_count=0;"),
    PLAIN("plamo3"),
    PLAIN("codeshell"),
    PLAIN("orion"),
    PLAIN("internlm2"),
    PLAIN("minicpm"),
    MHA("minicpm3", "attention.q_lora_rank=64;attention.kv_lora_rank=64;"
     "rope.dimension_count=D/2;"),
    PLAIN("gemma"),
    WITH("gemma2", "attn_logit_softcapping=10.;final_logit_softcapping=30.;"),
    PLAIN("gemma3"),
    {.name = "gemma3n", .keys = "block_count=22;", .flags = ARCH_FIRST_SHAPE_ONLY, .gain = .3f},
    GAIN(.35f, "gemma4", "attention.sliding_window_pattern=[1,0...];block_count=6;"
     "attention.shared_kv_layers=2;embedding_length_per_layer_input=32;"
     "attention.key_length_swa=D;attention.value_length_swa=D;rope.freq_base_swa=1e4;"),
    UNMADE("gemma4-assistant", "a draft model, needs its target"),
    NO_CACHE("gemma-embedding", "", "an encoder"),
    PLAIN("starcoder2"),
    NO_CACHE("mamba", "", "recurrent"),
    NO_CACHE("mamba2", "", "recurrent"),
    WITH("maple", MOE WINDOWS "swiglu_clamp_exp=7.;"),
    {.name = "jamba", .keys = HYBRID_HEADS, .flags = ARCH_ROUGH, .gain = .8f},
    ROUGH("falcon-h1", NULL),
    PLAIN("xverse"),
    PLAIN("command-r"),
    PLAIN("cohere2"),
    WITH("cohere2moe", MOE WINDOWS),
    WITH("dbrx", MOE "attention.clamp_kqv=4.;"),
    WITH("olmo", "attention.clamp_kqv=4.;"),
    PLAIN("olmo2"),
    MHA("olmoe", MOE),
    WITH("muse-glimmer", WINDOWS),
    PLAIN("openelm"),
    WITH("arctic", MOE),
    WITH("deepseek", MOE),
    LEFT("deepseek2", MOE MLA, "keys and values are one tensor"),
    MHA("deepseek2-ocr", MOE),
    LEFT("deepseek32", MOE MLA INDEXER, "LIGHTNING_INDEXER"),
    LEFT("deepseek4", MOE "attention.head_count_kv=1;attention.key_length=64;"
     "attention.value_length=64;rope.dimension_count=32;attention.q_lora_rank=64;"
     "expert_gating_func=4;attention.output_group_count=4;attention.output_lora_rank=32;"
     "attention.compress_ratios=[0,0,4,128];attention.compress_rope_freq_base=160000.;"
     "hash_layer_count=0;swiglu_clamp_exp=10.;" INDEXER "hyper_connection.count=4;"
     "hyper_connection.sinkhorn_iterations=2;hyper_connection.epsilon=1e-6;"
     "hyper_connection.low_rank=8;hyper_connection.magnitude=2.;",
     "keys and values are one tensor"),
    PLAIN("chatglm"),
    PLAIN("glm4"),
    WITH("glm4moe", MOE),
    LEFT("glm-dsa", MOE MLA INDEXER, "LIGHTNING_INDEXER"),
    PLAIN("bitnet"),
    /* ggml's CONT of a transposed, quantised V copies a block for each value, beyond the
     * result's memory; what follows is undefined. */
    {.name = "t5", .keys = "attention.relative_buckets_count=8;decoder_block_count=4;",
     .fate = ARCH_LEFT_BY_TQKV, .reason = "CONT",
     .flags = ARCH_ALL_HEADS_HAVE_KEYS | ARCH_F16_ONLY},
    {.name = "t5encoder", .keys = "attention.relative_buckets_count=8;", .fate = ARCH_NO_CACHE,
     .reason = "an encoder", .flags = ARCH_ALL_HEADS_HAVE_KEYS},
    GAIN(2.5f, "jais", "attention.max_alibi_bias=8.;"),
    PLAIN("jais2"),
    PLAIN("nemotron"),
    WITH("nemotron_h", "attention.head_count=[H,0,H,H];attention.head_count_kv=[K,0,K,K];"
     "feed_forward_length=[0,0,F,0];"),
    WITH("nemotron_h_moe", MOE "attention.head_count=[H,0,H,H];"
     "attention.head_count_kv=[K,0,K,K];feed_forward_length=[0,0,F,0];"),
    PLAIN("exaone"),
    PLAIN("exaone4"),
    WITH("exaone-moe", MOE),
    NO_CACHE("rwkv6", "wkv.head_size=64;attention.head_count=0;attention.head_count_kv=0;",
     "recurrent"),
    {.name = "rwkv6qwen2", .keys = "token_shift_count=1;", .fate = ARCH_UNMADE, .reason =
     "of metadata alone comes an optional tensor that makes it read another, which is not there"},
    NO_CACHE("rwkv7", "attention.head_count=0;attention.head_count_kv=0;" "wkv.head_size=64;"
     "attention.decay_lora_rank=32;attention.iclr_lora_rank=32;"
     "attention.value_residual_mix_lora_rank=32;attention.gate_lora_rank=32;", "recurrent"),
    NO_CACHE("arwkv7", "attention.head_count_kv=H;token_shift_count=1;" "wkv.head_size=64;"
     "attention.decay_lora_rank=32;attention.iclr_lora_rank=32;"
     "attention.value_residual_mix_lora_rank=32;attention.gate_lora_rank=32;", "recurrent"),
    PLAIN("granite"),
    VARIANT("granite", "moe", MOE),
    PLAIN("granitemoe"),
    WITH("granitehybrid", HYBRID_HEADS),
    WITH("graniteswitch", "adapters.count=1;adapters.token_ids_activate=[1];"
     "adapters.token_ids_substitute=[2];adapters.lora_rank=8;adapters.router_gain=1.;"),
    WITH("granite_swa", WINDOWS),
    ONE_SHAPE("chameleon", "vocab_size=10240;"),
    UNMADE("wavtokenizer-dec", "not a text model"),
    {.name = "plm", .keys = "attention.kv_lora_rank=64;rope.dimension_count=D/2;", .fate =
     ARCH_UNMADE, .reason = "its graph stores values of all heads and tokens as one row", .flags =
     ARCH_ALL_HEADS_HAVE_KEYS},
    WITH("bailingmoe", MOE),
    WITH("bailingmoe2", MOE),
    LEFT("bailingmoe3", MOE MLA HYBRID_HEADS_MLA "kda.head_dim=64;kda.gate_lower_bound=-5.;"
     "rope.dimension_sections=[8,12,12,0];", "keys and values are one tensor"),
    MHA("dots1", MOE),
    LEFT("dots3note", MOE MLA INDEXER WINDOWS "attention.kv_lora_rank_swa=128;"
     "attention.key_length_swa=192;attention.value_length_swa=128;"
     "attention.key_length_mla_swa=128;attention.value_length_mla_swa=64;rope.freq_base_swa=1e4;"
     "attention.indexer.types=[1,0...];", "LIGHTNING_INDEXER"),
    PLAIN("arcee"),
    WITH("afmoe", MOE),
    WITH("laguna", MOE),
    WITH("ernie4_5", MOE),
    WITH("ernie4_5-moe", MOE),
    WITH("hunyuan-moe", MOE),
    PLAIN("hunyuan-dense"),
    PLAIN("hunyuan_vl"),
    WITH("hy_v3", MOE),
    LEFT("hy_v4", MOE MLA INDEXER "hyper_connection.count=4;"
     "hyper_connection.sinkhorn_iterations=2;hyper_connection.epsilon=1e-6;"
     "hyper_connection.low_rank=8;hyper_connection.magnitude=2.;" "swiglu_clamp_exp=10.;"
     "attention.indexer.types=[1,0...];attention.indexer.key_length=128;", "LIGHTNING_INDEXER"),
    PLAIN("smollm3"),
    WITH("gpt-oss", MOE),
    WITH("lfm2", HYBRID_HEADS),
    WITH("lfm2moe", MOE HYBRID_HEADS),
    NO_CACHE("dream", "", "diffusion"),
    WITH("smallthinker", MOE),
    NO_CACHE("llada", "", "diffusion"),
    NO_CACHE("llada-moe", MOE, "diffusion"),
    PLAIN("seed_oss"),
    WITH("grovemoe", MOE),
    WITH("apertus", ".xielu.alpha_n=1.;.xielu.alpha_p=1.;.xielu.beta=1.;.xielu.eps=1e-7;"),
    WITH("minimax-01", MOE "residual_scale=3.5;"),
    WITH("hrm_text", "block_count=6;hrm.layers_per_stack=1;hrm.h_cycles=2;hrm.l_cycles=2;"),
    WITH("minimax-m2", MOE),
    LEFT_IN_PART("minimax-m3", MOE INDEXER "attention.indexer.head_count=K;rope.dimension_count=D/2;",
     "GET_ROWS"),
    PLAIN("cogvlm"),
    NO_CACHE("rnd1", MOE, "diffusion"),
    PLAIN("pangu-embedded"),
    PLAIN("mistral3"),
    UNMADE("eagle3", "a draft model, needs its target"),
    UNMADE("dflash", "a draft model, needs its target"),
    LEFT("mistral4", MOE MLA, "keys and values are one tensor"),
    WITH("paddleocr", MOE),
    WITH("mimo2", MOE WINDOWS),
    WITH("step35", MOE WINDOWS),
    WITH("spark2_5", WINDOWS),
    NO_CACHE("llama-embed", "", "an encoder"),
    PLAIN("maincoder"),
    LEFT("kimi-linear", MOE MLA HYBRID_HEADS_MLA "kda.head_dim=64;kda.safe_gate=true;"
     "kda.gate_lower_bound=-5.;", "keys and values are one tensor"),
    LEFT("kimi-k3", MOE MLA HYBRID_HEADS_MLA "kda.head_dim=64;kda.safe_gate=true;"
     "kda.gate_lower_bound=-5.;" "attn_res.block_size=12;activation.situ_beta=4.;"
     "activation.situ_linear_beta=25.;", "keys and values are one tensor"),
    LEFT("glm5-next", MOE MLA INDEXER "attention.head_count_kv=[1,0...];"
     "attention.key_length=128;rope.dimension_count=0;" "kda.head_dim=64;kda.safe_gate=true;"
     "kda.gate_lower_bound=-5.;" "hyper_connection.count=4;"
     "hyper_connection.sinkhorn_iterations=2;hyper_connection.epsilon=1e-6;"
     "hyper_connection.low_rank=8;hyper_connection.magnitude=2.;" "ple.layers=[0];"
     "ple.ngram_size=3;ple.heads_per_ngram=2;ple.conv_kernel=4;ple.eos_token_id=0;"
     "embedding_length_per_layer_input=E/4;ple.layer_multipliers=l[1,3,5];"
     "ple.head_offsets=l[0,V,V*2,V*3];ple.head_vocab_sizes=l[V,V,V,V];"
     "attention.compress_ratios=[4...];", "GET_ROWS"),
    PLAIN("talkie"),
    WITH("mellum", MOE),
    PLAIN("nanbeige"),
    ONE_SHAPE("qwen3tts", "vocab_size=3072;"),
    PLAIN("pockettts"),
};

const size_t arch_n_rows = sizeof arch_rows / sizeof *arch_rows;
