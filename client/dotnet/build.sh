#!/bin/sh
# Builds the client, its tests and the sample with Mono's compiler: build.sh OUTPUT_DIRECTORY
# Debian: apt-get install mono-mcs libmono-system-net-http4.0-cil libmono-system-windows-forms4.0-cil
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
strict="-langversion:6 -warn:4 -warnaserror"
mcs $strict -target:library -out:"$out/Tanist.Client.dll" -doc:"$out/Tanist.Client.xml" -r:System.Net.Http "$here"/src/*.cs
mcs $strict -out:"$out/Tanist.Client.Tests.exe" -r:"$out/Tanist.Client.dll" "$here"/tests/*.cs
if [ -z "${NO_SAMPLE:-}" ]; then
    mcs $strict -target:winexe -out:"$out/WallController.exe" -r:"$out/Tanist.Client.dll" -r:System.Windows.Forms -r:System.Drawing "$here"/sample/*.cs
fi
