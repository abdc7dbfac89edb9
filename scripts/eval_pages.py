#!/usr/bin/env python3
"""Measures what pages do to a real model, and prints one table.

eval_pages.py FOLDER [--backend FILE] [--windows N] [--threads N]
              [--fit FILE] [TEXT...]

FOLDER is what `build-llama.sh FOLDER tools` made; weights are converted to f16 there
once. --backend is tests/llama/pages_backend.c as the build made it. Balances are
fitted to --fit (data/profile.txt); the texts that are measured, one after the other,
are by default two of llama.cpp's own, CONTRIBUTING.md and docs/speculative.md.

Every row is read through its codes, those of a batch by the batch itself too:
no row is staged. KL divergence is to llama.cpp's f16 cache, over the second half
of each window.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

WINDOW = 512
HEAD_DIM = 64
# llama.cpp's own types of keys and values, and their bits a value.
STOCK = [("iq4_nl", 4.5), ("q8_0", 8.5), ("q4_0", 4.5)]
# Keys, values, whether with means, whether with balances.
PAGES = [("tq4", "tq4", 0, 0), ("tq4", "tq4", 0, 1), ("tq4", "tq4", 1, 0), ("tq4", "tq4", 1, 1),
         ("tq3", "tq3", 1, 0), ("tq3", "tq3", 1, 1), ("tq5", "tq4", 1, 0), ("tq5", "tq4", 1, 1),
         ("tq4", "tq3", 1, 0), ("tq4", "tq3", 1, 1), ("tq8", "tq8", 1, 0)]


def bits_of(format_name, n_means):
    """Codes and a row's f16 scale; means and their scales, divided among 64 rows."""
    row = int(format_name[2:]) * HEAD_DIM / 8 + 2
    return (row + n_means * (HEAD_DIM + 2) / 64) * 8 / HEAD_DIM


def name_of(keys, values, means, balance):
    formats = keys if keys == values else f"keys {keys}, values {values}"
    return formats + (", pages" if means else ", rows") + ", balance" * balance


class Evaluation:
    def __init__(self, options, work):
        self.o, self.work = options, work
        self.bin = os.path.join(os.path.abspath(options.folder), "static/bin/")
        self.backend = os.path.abspath(options.backend)
        self.model = os.path.join(options.folder, "model-f16.gguf")
        self.text, self.base = work + "/text", work + "/base"
        if not os.path.exists(self.model):
            self.run("llama-quantize", "--allow-requantize",
                     os.path.join(options.folder, "model.gguf"), self.model, "F16")
        with open(self.text, "wb") as out:
            for path in options.texts:
                out.write(open(path, "rb").read())

    def run(self, program, *arguments, **settings):
        """What the program wrote, run with these settings of the backend, if any."""
        environment = {n: v for n, v in os.environ.items()
                       if n != "GGML_BACKEND_PATH" and not n.startswith("TQKV_PAGES_")}
        environment["LD_LIBRARY_PATH"] = self.bin
        if settings:
            environment["GGML_BACKEND_PATH"] = self.backend
            environment.update((f"TQKV_PAGES_{n.upper()}", str(v)) for n, v in settings.items())
        done = subprocess.run([self.bin + program, *arguments], env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            sys.exit(f"{program} {' '.join(arguments)}: status {done.returncode}\n"
                     f"{done.stdout[-3000:]}")
        return done.stdout

    def perplexity(self, text, windows, *arguments, **settings):
        # A batch is one window, so that its runs of 64 rows are pages.
        return self.run("llama-perplexity", "-m", self.model, "-f", text, "-c", str(WINDOW),
                        "-b", str(WINDOW), "-ub", str(WINDOW), "--chunks", str(windows),
                        "-t", str(self.o.threads), "-fa", "on", "-ot", "^$=CPU",
                        *arguments, **settings)

    def divergence(self, name, bits, cache="f16", **settings):
        out = self.perplexity(self.text, self.o.windows, "--kl-divergence-base", self.base,
                              "--kl-divergence", "-ctk", cache, "-ctv", cache, **settings)
        found = [re.search(pattern, out) for pattern in
                 (r"Mean +KLD: +([-\d.]+) +± +([\d.]+)", r"99.0% +KLD: +([-\d.]+)",
                  r"Same top p: +([\d.]+)")]
        if None in found:
            sys.exit(f"{name}: llama-perplexity printed no divergence\n{out[-3000:]}")
        print(name, found[0].group(1), file=sys.stderr, flush=True)
        return (name, bits, *(float(x) for f in found for x in f.groups()))

    def rows(self):
        balances = [f"{self.work}/balance{means}" for means in (0, 1)]
        out = self.perplexity(self.text, self.o.windows, "--kl-divergence-base", self.base)
        if f"over {self.o.windows} chunks" not in out:
            sys.exit(f"the text has fewer than {self.o.windows} windows")
        for means, path in enumerate(balances):
            self.perplexity(self.o.fit, 8, fit=path, means=means) # 4096 keys of each head
            if not os.path.exists(path):
                sys.exit("the backend wrote no balances: was it loaded?")
        for name, bits in STOCK:
            yield self.divergence(name, bits, name)
        for keys, values, means, balanced in PAGES:
            settings = {"keys": keys, "values": values, "means": means}
            if balanced:
                settings["balance"] = balances[means]
            yield self.divergence(name_of(keys, values, means, balanced),
                                  (bits_of(keys, means) + bits_of(values, means)) / 2, **settings)


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--backend", default="build/check/tests/llama/libpages-backend.so")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fit", default=root + "/data/profile.txt")
    options = parser.parse_args()
    if not options.texts:
        options.texts = [f"{options.folder}/source/{name}"
                         for name in ("CONTRIBUTING.md", "docs/speculative.md")]
    with tempfile.TemporaryDirectory() as work: # 16 windows are 400 MB of logits
        rows = list(Evaluation(options, work).rows())
    print("| cache | bits a value | KLD mean | of iq4_nl's | 99% | same top |\n"
          "|---|---|---|---|---|---|")
    for name, bits, mean, error, tail, top in rows:
        print(f"| {name} | {bits:.3f} | {mean:.6f} ± {error:.6f} | "
              f"{mean / rows[0][2]:.3f} | {tail:.4f} | {top:.1f}% |")


if __name__ == "__main__":
    main()
