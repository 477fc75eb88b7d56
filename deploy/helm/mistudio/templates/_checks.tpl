{{/* What cannot work fails here, with what to set. Included once, by configmap.yaml. */}}

{{- define "mistudio.checks" -}}
{{- $values := .Values -}}
{{- if not $values.auth.existingSecret -}}
{{- fail "auth.existingSecret is empty: set it to the name of a secret that holds the bearer token under the key of auth.key. `kubectl create secret generic mistudio-auth --from-literal=token=$(openssl rand -hex 32)` makes one." -}}
{{- end -}}
{{- if and $values.tls.existingSecret $values.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled exclude each other: leave one of them out." -}}
{{- end -}}
{{- if not (or $values.tls.existingSecret $values.tls.certManager.enabled) -}}
{{- fail "No certificate: set tls.existingSecret to the name of a secret with tls.crt, tls.key and ca.crt, or set tls.certManager.enabled." -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuer.name) -}}
{{- fail "tls.certManager.issuer.name is empty: set it to the name of an Issuer that signs the certificate." -}}
{{- end -}}
{{- range $name, $value := $values.env -}}
{{- if regexMatch "(?i)token|secret|password|(^|_)key$" $name -}}
{{- fail (printf "env.%s looks like a secret, and env stands in the manifest in clear: leave it out, and put secrets into auth.existingSecret or engines.keysSecret." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := (include "mistudio.keepers" . | fromYaml).names -}}
{{- include "mistudio.checkKeeper" (dict "root" $ "name" $name) -}}
{{- end -}}
{{- if eq $values.profile "services" -}}
{{- include "mistudio.checkSize" (dict "name" "shared.size" "size" $values.shared.size) -}}
{{- include "mistudio.checkGrace" (dict "name" "gateway" "own" $values.gateway "least" 30) -}}
{{- include "mistudio.checkResources" (dict "name" "gateway" "own" $values.gateway) -}}
{{- if lt (int $values.gateway.replicas) 1 -}}
{{- fail "gateway.replicas is less than 1: set it to at least 1." -}}
{{- end -}}
{{- end -}}
{{- include "mistudio.checkEntry" . -}}
{{- include "mistudio.checkEngines" . -}}
{{- end -}}

{{/* A component with a database: dict "root" "name". */}}
{{- define "mistudio.checkKeeper" -}}
{{- $own := index .root.Values .name -}}
{{- if ne (int $own.replicas) 1 -}}
{{- fail (printf "%s.replicas is %v, and its database is SQLite, which one process writes: set it to 1. Only gateway.replicas may be more." .name $own.replicas) -}}
{{- end -}}
{{- if lt (int $own.gpu.count) 0 -}}
{{- fail (printf "%s.gpu.count is %v: set it to 0 for none, or to how many GPUs the pod is given." .name $own.gpu.count) -}}
{{- end -}}
{{- if and (gt (int $own.gpu.count) 0) (eq $own.image.flavour "cpu") -}}
{{- fail (printf "%s.gpu.count is %v, but %s.image.flavour is cpu, an image that cannot use a GPU: set the flavour to %s, or the count to 0." .name $own.gpu.count .name (ternary "vllm" "cuda" (eq .name "explain"))) -}}
{{- end -}}
{{- include "mistudio.checkSize" (dict "name" (printf "%s.persistence.size" .name) "size" $own.persistence.size) -}}
{{- include "mistudio.checkSize" (dict "name" (printf "%s.gpu.sharedMemory" .name) "size" $own.gpu.sharedMemory) -}}
{{- include "mistudio.checkResources" (dict "name" .name "own" $own) -}}
{{- include "mistudio.checkGrace" (dict "name" .name "own" $own "least" (ternary 60 30 (eq .name "embedded"))) -}}
{{- end -}}

{{- define "mistudio.checkSize" -}}
{{- if not (regexMatch "^[1-9][0-9]*([.][0-9]+)?(Mi|Gi|Ti|Pi|M|G|T|P)$" (toString .size)) -}}
{{- fail (printf "%s is %q: set it to a size of at least 1 with its unit, for example 20Gi." .name (toString .size)) -}}
{{- end -}}
{{- end -}}

{{- define "mistudio.checkResources" -}}
{{- $name := .name -}}
{{- range $kind, $quantities := .own.resources -}}
{{- range $resource, $quantity := $quantities -}}
{{- if not (regexMatch "^[0-9]*[.]?[0-9]*[1-9][0-9]*([.][0-9]+)?(m|k|Ki|Mi|Gi|Ti|M|G|T)?$" (toString $quantity)) -}}
{{- fail (printf "%s.resources.%s.%s is %q: set it to a positive quantity, for example 4 or 16Gi." $name $kind $resource (toString $quantity)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistudio.checkGrace" -}}
{{- if lt (int .own.terminationGracePeriodSeconds) .least -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %v, shorter than its drain: set it to at least %d." .name .own.terminationGracePeriodSeconds .least) -}}
{{- end -}}
{{- end -}}

{{/* How the gateway is reached. */}}
{{- define "mistudio.checkEntry" -}}
{{- $service := .Values.gateway.service -}}
{{- if and (ne $service.type "NodePort") (or $service.httpNodePort $service.grpcNodePort) -}}
{{- fail (printf "gateway.service.httpNodePort and grpcNodePort need the type NodePort, but gateway.service.type is %s: set the type to NodePort, or leave the ports at 0." $service.type) -}}
{{- end -}}
{{- if and .Values.gateway.ingress.enabled (not .Values.gateway.ingress.host) -}}
{{- fail "gateway.ingress.enabled needs a name: set gateway.ingress.host to the host name of the Ingress." -}}
{{- end -}}
{{- end -}}

{{/* What engines need of the pod that runs Explain. */}}
{{- define "mistudio.checkEngines" -}}
{{- $engines := .Values.engines -}}
{{- $name := ternary "embedded" "explain" (eq .Values.profile "embedded") -}}
{{- $own := index .Values $name -}}
{{- if $engines.vllm.enabled -}}
{{- if or (ne $own.image.flavour "vllm") (lt (int $own.gpu.count) 1) -}}
{{- fail (printf "engines.vllm.enabled needs vLLM and a GPU: set %s.image.flavour to vllm and %s.gpu.count to at least 1." $name $name) -}}
{{- end -}}
{{- if and $engines.vllm.download (not .Values.hub.enabled) -}}
{{- fail "engines.vllm.download needs the model hub: set hub.enabled to true, or engines.vllm.download to false for a model that is there." -}}
{{- end -}}
{{- if not $engines.vllm.model -}}
{{- fail "engines.vllm.model is empty: set it to the model that vLLM serves." -}}
{{- end -}}
{{- end -}}
{{- if and $engines.ollama.enabled (not $engines.ollama.egressCidr) -}}
{{- $host := include "mistudio.hostOf" $engines.ollama.baseUrl -}}
{{- if not (or (regexMatch "^[0-9.]+$" $host) (regexMatch "^[a-z0-9-]+[.][a-z0-9-]+([.]svc([.].+)?)?$" $host)) -}}
{{- fail (printf "engines.ollama.baseUrl names %q, which is neither an IP address nor a service of the cluster (NAME.NAMESPACE.svc): set engines.ollama.egressCidr to the addresses of the server." $host) -}}
{{- end -}}
{{- end -}}
{{- range $table, $_ := $engines.extra -}}
{{- if has $table (list "vllm" "ollama") -}}
{{- fail (printf "engines.extra.%s has a table of its own: set engines.%s instead." $table $table) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mistudio.hostOf" -}}
{{- (urlParse .).hostname -}}
{{- end -}}
