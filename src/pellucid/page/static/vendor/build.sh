#!/bin/sh
# Bundles lit.js and markdown.js from the versions that package-lock.json pins: the same bytes each time. Needs npm.
#
#   build.sh            writes them here, and their fingerprints into NOTICE
#   build.sh FOLDER     writes them there, to compare
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${1:-$here}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$work"
cd "$work"
npm ci --ignore-scripts --no-audit --no-fund --silent
bundle() { # NAME GLOBAL: standard input is the module; its names become those of one object, so that files can be joined
    names=$(sed -n 's/^export {\(.*\)} from.*/\1/p' | tr '\n' ',' | sed 's/,$//; s/,/, /g; s/  */ /g; s/^ //; s/ $//; s/ ,/,/g')
    node_modules/.bin/esbuild "$1.entry.js" --bundle --minify --legal-comments=eof --charset=ascii --target=es2022 \
        --format=iife --global-name="$2" --tsconfig-raw='{"compilerOptions": {"alwaysStrict": true}}' \
        --define:process.env.NODE_ENV='"production"' --log-level=warning \
        --footer:js="export const { $names } = $2;" --outfile="$out/$1.js"
}
printf '%s\n' 'export { LitElement, html, nothing, render, svg } from "lit";' >lit.entry.js
printf '%s\n' 'export { marked } from "marked";' 'export { default as DOMPurify } from "dompurify";' >markdown.entry.js
bundle lit pellucidLit <lit.entry.js
sed 's/default as //' markdown.entry.js | bundle markdown pellucidMarkdown
version() { sed -n 's/^  "version": "\(.*\)",/\1/p' "node_modules/$1/package.json" | head -1; }
{
    printf '%s\n\n' "What build.sh bundled here, and the licences of its parts."
    for file in lit.js markdown.js; do
        printf '%s: sha256 %s\n' "$file" "$(sha256sum "$out/$file" | cut -d' ' -f1)"
    done
    for package in lit marked dompurify; do
        printf '\n\n==== %s %s, in %s\n\n' "$package" "$(version $package)" "$([ $package = lit ] && echo lit.js || echo markdown.js)"
        [ $package = dompurify ] && printf '%s\n\n' "Used under the Apache License, of its two."
        cat "node_modules/$package/LICENSE"
    done
} >"$out/NOTICE"
