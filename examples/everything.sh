#!/usr/bin/env bash
# Reads a person's whole chart from the running demo: first as one Bundle, then page by page.
# Needs `make demo` in another terminal; run it from the same folder. Uses curl and python3.
set -euo pipefail

. "${1:-data/demo.env}"

get() {
    curl --silent --show-error --fail --header "Authorization: Bearer $TOKEN" "$1"
}

echo "The whole chart of Person/$PERSON:"
get "$FHIR_BASE/Person/$PERSON/\$everything" | python3 -c '
import collections, json, sys
bundle = json.load(sys.stdin)
for kind, count in collections.Counter(entry["resource"]["resourceType"] for entry in bundle["entry"]).most_common():
    print(f"  {count:4} {kind}")
assert bundle["total"] == len(bundle["entry"])
print("  %4d in all, as of %s" % (bundle["total"], bundle["timestamp"]))
'

echo "The same in pages of 20:"
url="$FHIR_BASE/Person/$PERSON/\$everything?_count=20"
while [ -n "$url" ]; do
    url=$(get "$url" | python3 -c '
import json, sys
bundle = json.load(sys.stdin)
print("  a page of", len(bundle.get("entry", [])), "entries", file=sys.stderr)
print(next((link["url"] for link in bundle["link"] if link["relation"] == "next"), ""))
')
done
