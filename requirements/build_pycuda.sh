#!/usr/bin/env bash
# Builds PyCUDA and installs it into a venv. Usage: build_pycuda.sh VENV
#
# `pip install pycuda` needs curand and a driver to link against; this needs neither, only nvcc's toolkit and a C++
# compiler. It takes about 90 seconds; the wheel stays in ~/.cache/perception_node, where an interrupted build goes on.
set -euo pipefail
version=2026.1
python=$(realpath -s "$1")/bin/python

fail() { echo "PyCUDA: $*" >&2; exit 1; }

# The toolkit is where nvcc really is: what lies on the PATH can be a link or a script.
toolkit=
site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
nvcc=$(command -v nvcc || true)
real=${nvcc:+$(realpath "$nvcc")}
for folder in ${CUDA_HOME:+"$CUDA_HOME"} ${real:+"${real%/bin/nvcc}"} /usr/local/cuda "$site"/nvidia/cu*; do
    if [[ -x $folder/bin/nvcc && -f $folder/include/cuda.h ]]; then toolkit=$folder && break; fi
done
[[ $toolkit ]] || fail "no nvcc with its headers (CUDA_HOME, PATH, /usr/local/cuda): install the CUDA toolkit"
command -v c++ >/dev/null || fail "no C++ compiler: sudo apt install g++"

release=$("$toolkit/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
tag=$("$python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/perception_node/pycuda-$version-$tag-cuda$release
mkdir -p "$cache"
exec 9>"$cache/lock" && flock 9 # two builds at once would share the folder

if ! compgen -G "$cache/*.whl" >/dev/null; then
    source=$cache/pycuda-$version
    if [[ ! -d $source ]]; then
        "$python" -m pip download -q --no-deps --no-binary pycuda -d "$cache" "pycuda==$version"
        rm -rf "$cache/part" && mkdir "$cache/part"
        tar -xzf "$cache/pycuda-$version.tar.gz" -C "$cache/part"
        mv "$cache/part/pycuda-$version" "$source"
    fi
    # Only the name of the driver's library counts for linking; the real one is found when PyCUDA is imported.
    mkdir -p "$cache/driver"
    c++ -shared -fPIC -Wl,-soname,libcuda.so.1 -x c++ /dev/null -o "$cache/driver/libcuda.so"
    cd "$source"
    rm -f siteconf.py # an earlier configuration would turn the switches round
    options=(--cuda-root="$toolkit" --no-cuda-enable-curand --cudadrv-lib-dir="$cache/driver")
    "$python" configure.py "${options[@]}" >"$cache/log"
    export LDFLAGS="-Wl,--no-as-needed ${LDFLAGS:-}" # or some linkers drop a library that resolves nothing
    if ! "$python" -m pip wheel -q --no-deps -w "$cache/part" . >>"$cache/log" 2>&1; then
        tail -n 40 "$cache/log" >&2
        fail "the build failed; see $cache/log"
    fi
    mv "$cache"/part/*.whl "$cache"
fi
"$python" -m pip install -q "$cache"/*.whl
