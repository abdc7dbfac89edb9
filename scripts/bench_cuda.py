"""Decoding on a CUDA device beside torch's bf16 attention: writes the table of doc/gpu.md.

    bench_cuda.py TQKV [DOCUMENT]

runs `TQKV bench --device cuda:0 --attention` and scripts/bench_torch_attention.py one after the
other, prints the table, and puts it into the document between its two marks."""
import json
import pathlib
import subprocess
import sys

BEGIN, END = "<!-- bench-cuda -->", "<!-- bench-cuda end -->"


def lines_of(command):
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peers():
    """torch's times by shape; empty where there is no torch."""
    script = pathlib.Path(__file__).with_name("bench_torch_attention.py")
    try:
        head, *rows = lines_of([sys.executable, str(script)])
    except subprocess.CalledProcessError:
        return "no torch here", {}
    return f"torch {head['torch']}, {head['device']}", {row["shape"]: row for row in rows}


def cell(ours, theirs, name):
    return f"{theirs[name] / ours[name]:.2f}x" if name in theirs else ""


def table(tqkv):
    copy, *rows = lines_of([tqkv, "bench", "--device", "cuda:0", "--attention", "--json"])
    peer, theirs = peers()
    yield f"Copy: {copy['copy_GB_s']:.0f} GB/s, read and written. Beside it: {peer}."
    yield ""
    yield ("| format | sequences, query heads, KV heads, head_dim, tokens | queries | page | MB | us "
           "| of copy | bf16 | in a graph, us | of copy | bf16 |")
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        other = theirs.get(row["shape"], {}) if row["queries"] == 1 else {}
        name = row["format"] + (", portable kernel" if row["portable"] else "")
        yield (f"| {name} | {row['shape']} | {row['queries']} | {row['page'] or ''}{row['extras']} "
               f"| {row['bytes'] / 1e6:.1f} | {row['us']:.1f} | {100 * row['of_copy']:.1f}% "
               f"| {cell(row, other, 'us')} | {row['graph_us']:.1f} "
               f"| {100 * row['graph_of_copy']:.1f}% | {cell(row, other, 'graph_us')} |")
    yield ""
    for shape, row in theirs.items():
        if "us" in row:
            yield f"bf16 {shape}: {row['us']:.1f} us, in a graph {row['graph_us']:.1f} us.  "


def main():
    text = "\n".join(table(sys.argv[1])) + "\n"
    print(text)
    if len(sys.argv) > 2:
        path = pathlib.Path(sys.argv[2])
        before, _, rest = path.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
