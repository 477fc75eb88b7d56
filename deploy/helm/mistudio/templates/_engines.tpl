{{/* engines.toml: JSON strings, numbers and lists are TOML as they are. */}}

{{- define "mistudio.engines" -}}
{{- $engines := .Values.engines -}}
# Engines that explain; the lexical one is always there.
{{- with $engines.default }}
default = {{ toJson . }}
{{- end }}
{{- with $engines.judge }}
judge = {{ toJson . }}
{{- end }}
{{- with $engines.fallback }}
fallback = {{ toJson . }}
{{- end }}
{{- with $engines.vllm }}
{{- if .enabled }}
{{- $gpus := int (index $.Values (ternary "embedded" "explain" (eq $.Values.profile "embedded"))).gpu.count }}
{{- $devices := list }}
{{- range until $gpus }}{{ $devices = append $devices (printf "cuda:%d" .) }}{{ end }}

[engines.vllm]
kind = "vllm"
model = {{ toJson .model }}
python = "/opt/vllm/bin/python"
devices = {{ toJson $devices }}
download = {{ .download }}
memory_fraction = {{ .memoryFraction }}
max_model_len = {{ int .maxModelLen }}
max_num_seqs = {{ int .maxNumSeqs }}
idle_minutes = {{ .idleMinutes }}
{{- end }}
{{- end }}
{{- with $engines.ollama }}
{{- if .enabled }}

[engines.ollama]
kind = "ollama"
base_url = {{ toJson .baseUrl }}
{{- with .model }}
model = {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $table := $engines.extra }}

[engines.{{ toJson $name }}]
{{- range $key, $value := $table }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}
