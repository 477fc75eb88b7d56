{{/* What a component runs: arguments, ports, and which of the shared things it needs. dict "root" "name". */}}

{{- define "mistudio.component" -}}
{{- $root := .root -}}
{{- if eq .name "gateway" -}}
args:
  - python
  - -m
  - gateway
  {{- include "mistudio.entryArgs" $root | nindent 2 }}
  {{- range $service := list "train" "find" "explain" }}
  - --backend
  - {{ $service }}={{ include "mistudio.name" (dict "root" $root "name" $service) }}:50051
  {{- end }}
  - --backend-tls-cert
  - /etc/mistudio/tls/tls.crt
  - --backend-tls-key
  - /etc/mistudio/tls/tls.key
  - --backend-tls-ca
  - /etc/mistudio/tls/ca.crt
ports: {http: 8001, grpc: 50051, probe: 50060}
drainFirst: true
{{- else if eq .name "embedded" -}}
args:
  - mistudio
  - up
  {{- include "mistudio.entryArgs" $root | nindent 2 }}
  - --cpu-jobs
  - {{ $root.Values.embedded.cpuJobs | quote }}
  - --checkpoint-seconds
  - {{ $root.Values.checkpointSeconds | quote }}
ports: {http: 8001, grpc: 50051, probe: 50060}
ready: backends
keeps: true
explains: true
{{- else -}}
args:
  - mistudio
  - serve
  - {{ .name }}
  - --address
  - 0.0.0.0:50051
  - --probe-address
  - 0.0.0.0:50060
  - --tls-cert
  - /etc/mistudio/tls/tls.crt
  - --tls-key
  - /etc/mistudio/tls/tls.key
  - --tls-ca
  - /etc/mistudio/tls/ca.crt
  {{- range $service := without (list "train" "find" "explain") .name }}
  - --peer
  - {{ $service }}={{ include "mistudio.name" (dict "root" $root "name" $service) }}:50051
  {{- end }}
  - --cpu-jobs
  - {{ (index $root.Values .name).cpuJobs | quote }}
  - --checkpoint-seconds
  - {{ $root.Values.checkpointSeconds | quote }}
ports: {grpc: 50051, probe: 50060}
keeps: true
shares: true
explains: {{ eq .name "explain" }}
{{- end -}}
{{- end -}}

{{/* Arguments of whatever clients reach. */}}
{{- define "mistudio.entryArgs" -}}
- --http
- 0.0.0.0:8001
- --grpc
- 0.0.0.0:50051
- --probe-address
- 0.0.0.0:50060
- --tls-cert
- /etc/mistudio/tls/tls.crt
- --tls-key
- /etc/mistudio/tls/tls.key
{{- $names := (include "mistudio.hosts" (dict "root" . "name" "gateway") | fromYaml).names -}}
{{- if .Values.gateway.ingress.enabled -}}{{- $names = append $names .Values.gateway.ingress.host -}}{{- end -}}
{{- range concat $names .Values.gateway.hostNames }}
- --host-name
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Environment of a component: dict "root" "component". Nothing in it is a secret. */}}
{{- define "mistudio.env" -}}
{{- $values := .root.Values -}}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
{{- if .component.keeps }}
- {name: MISTUDIO_HOME, value: /var/lib/mistudio}
- {name: MISTUDIO_TOKEN_FILE, value: {{ printf "/etc/mistudio/auth/%s" $values.auth.key }}}
- {name: HF_HOME, value: /var/lib/mistudio{{ if .component.shares }}-shared{{ end }}/huggingface}
- {name: NUMBA_CACHE_DIR, value: /var/lib/mistudio/numba}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
{{- if not $values.hub.enabled }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- end }}
{{- if .component.shares }}
- {name: MISTUDIO_ARTIFACTS, value: /var/lib/mistudio-shared/artifacts}
- {name: MISTUDIO_MODEL_ROOT, value: /var/lib/mistudio-shared/models}
{{- end }}
{{- if .component.explains }}
- {name: MISTUDIO_ENGINES_FILE, value: /etc/mistudio/engines/engines.toml}
{{- end }}
{{- range $name, $value := $values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}
