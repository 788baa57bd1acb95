#!/usr/bin/env bash
# What needs a GPU to be shown: the tests marked gpu, and the full-size codec with random weights, beside the plain way.
# Results, one JSON file a run, go to the folder named first (default: benchmarks), named theme_hardware_date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(realpath -m "${1:-benchmarks}")
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
name=$(nvidia-smi --id=0 --query-gpu=name --format=csv,noheader | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9\n' '-')
stamp="${name}_$(date +%F)"

# A test that fails does not keep the machine from being measured; it is told at the end.
failed=0
"$python" -m pytest -q -m gpu | tee "$out/tests_$stamp.txt" || failed=1
# Targets: 1024 in 40 ms, 2048 in 160 ms, five times the plain way, the entropy path 15% of a decode.
"$python" -m jobs bench codec --size full --device cuda --seconds 40 --out "$out/codec-full_$stamp.json"
"$python" -m jobs bench codec --size full --device cuda --seconds 40 --compile --resolutions 1024,2048 \
    --out "$out/codec-full-compiled_$stamp.json"
"$python" -m jobs bench codec --size small --device cuda --seconds 10 --out "$out/codec-small_$stamp.json"
# Targets: a 2048 x 2048 decode in 7 GB whole, in 4 GB with tiles and 8-bit weights; 200 megapixels in 16 GB.
"$python" -m jobs bench memory --size full --device cuda --megapixels 4.2 | tee "$out/memory-2048_$stamp.txt"
"$python" -m jobs bench memory --size full --device cuda --megapixels 4.2 --int8 --memory 2.4 \
    | tee "$out/memory-2048-int8_$stamp.txt"
"$python" -m jobs bench memory --size full --device cuda --megapixels 200 --memory 12 | tee "$out/memory-200mp_$stamp.txt"
exit "$failed"
