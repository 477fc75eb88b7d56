#!/usr/bin/env bash
# An authority and one certificate for every process of an installation, for trying out: tls.crt, tls.key and ca.crt.
#
#   deploy/docker/certificates.sh FOLDER [RELEASE [NAMESPACE [FURTHER_NAME...]]]
#
# RELEASE is the prefix of the services' names (default: mistudio), NAMESPACE that of a cluster (default: default).
# What is there already is kept. The authority's key is not.
set -euo pipefail

FOLDER=${1:?usage: certificates.sh FOLDER [RELEASE [NAMESPACE [FURTHER_NAME...]]]}
RELEASE=${2:-mistudio}
NAMESPACE=${3:-default}
shift "$(($# < 3 ? $# : 3))"

if [ -e "$FOLDER/tls.crt" ]; then
  echo "$FOLDER/tls.crt is there already" >&2
  exit 0
fi
NAMES=DNS:localhost,IP:127.0.0.1
for service in gateway train find explain; do
  for suffix in "" ".$NAMESPACE" ".$NAMESPACE.svc" ".$NAMESPACE.svc.cluster.local"; do
    NAMES=$NAMES,DNS:$RELEASE-$service$suffix
  done
done
for name in "$@"; do NAMES=$NAMES,DNS:$name; done

mkdir -p "$FOLDER"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$RELEASE authority" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
  -keyout "$SCRATCH/ca.key" -out "$SCRATCH/ca.crt" 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$RELEASE" \
  -keyout "$SCRATCH/tls.key" -out "$SCRATCH/tls.csr" 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "$NAMES" >"$SCRATCH/extensions"
openssl x509 -req -in "$SCRATCH/tls.csr" -CA "$SCRATCH/ca.crt" -CAkey "$SCRATCH/ca.key" -CAcreateserial -days 365 \
  -extfile "$SCRATCH/extensions" -out "$SCRATCH/tls.crt" 2>/dev/null
cp "$SCRATCH/tls.crt" "$SCRATCH/tls.key" "$SCRATCH/ca.crt" "$FOLDER/"
echo "$FOLDER: tls.crt, tls.key, ca.crt"
