#!/usr/bin/env bash
# Builds the message packages in perception_node/interfaces against the ROS wheels of a venv and installs them into that
# venv, which is an ament prefix. Usage: build_interfaces.sh VENV
set -euo pipefail
venv=$(realpath "$1")
interfaces=$(realpath "$(dirname "$0")/../perception_node/interfaces")
python=$venv/bin/python

# The wheels' CMake files name the paths of the machine that they were built on.
python_include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
numpy_include=$("$python" -c 'import numpy; print(numpy.get_include())')
find "$venv/share" -name '*.cmake' -exec sed -i -E \
    -e "s#/opt/python/cp[^/;\"]+/lib/python[0-9.]+/site-packages/numpy/_?core/include#$numpy_include#g" \
    -e "s#/opt/python/cp[^/;\"]+/include/python[0-9.]+#$python_include#g" {} +

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export AMENT_PREFIX_PATH=$venv
build() {
    "$venv/bin/cmake" -S "$interfaces/$1" -B "$build/$1" -DCMAKE_PREFIX_PATH="$venv" -DCMAKE_INSTALL_PREFIX="$venv" \
        -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$python" &&
        "$venv/bin/cmake" --build "$build/$1" --parallel &&
        "$venv/bin/cmake" --install "$build/$1"
}
for package in vision_msgs tf2_msgs; do
    if ! build "$package" >"$build/log" 2>&1; then
        cat "$build/log"
        echo "$package could not be built; it takes compilers for C and C++, make and Python's headers" \
            "(apt install build-essential python3-dev)" >&2
        exit 1
    fi
done
"$python" -c 'from vision_msgs.msg import Detection2DArray, LabelInfo; from tf2_msgs.msg import TFMessage'
