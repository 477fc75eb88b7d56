{{/* Names, labels and the list of components: what every object is called and found by. */}}

{{- define "mistudio.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Components of the profile, as a JSON list under "names". */}}
{{- define "mistudio.components" -}}
names: {{ ternary (list "embedded") (list "gateway" "train" "find" "explain") (eq .Values.profile "embedded") | toJson }}
{{- end -}}

{{/* Components that keep something, which is what has a database, a volume and jobs. */}}
{{- define "mistudio.keepers" -}}
names: {{ ternary (list "embedded") (list "train" "find" "explain") (eq .Values.profile "embedded") | toJson }}
{{- end -}}

{{/* The component that clients reach. */}}
{{- define "mistudio.entry" -}}
{{- ternary "embedded" "gateway" (eq .Values.profile "embedded") -}}
{{- end -}}

{{/* Name of an object: dict "root" "name". */}}
{{- define "mistudio.name" -}}
{{ include "mistudio.fullname" .root }}-{{ .name }}
{{- end -}}

{{/* Labels that select the pods of a component: dict "root" "name". */}}
{{- define "mistudio.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .name }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of an object: dict "root" "name", whose name may be empty. */}}
{{- define "mistudio.labels" -}}
{{ include "mistudio.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Names under which the service of a component is reached: dict "root" "name"; a JSON list under "names". */}}
{{- define "mistudio.hosts" -}}
{{- $short := include "mistudio.name" . -}}
{{- $namespace := .root.Release.Namespace -}}
names: {{ list $short (printf "%s.%s" $short $namespace) (printf "%s.%s.svc" $short $namespace) (printf "%s.%s.svc.cluster.local" $short $namespace) | toJson }}
{{- end -}}

{{- define "mistudio.tlsSecret" -}}
{{- ternary (printf "%s-tls" (include "mistudio.fullname" .)) .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- end -}}

{{/* An image: dict "root" "own", the component's values. */}}
{{- define "mistudio.image" -}}
{{- $image := .own.image -}}
{{- $flavour := default "cpu" $image.flavour -}}
{{- $tag := default (printf "%s%s" .root.Chart.AppVersion (ternary "" (printf "-%s" $flavour) (eq $flavour "cpu"))) $image.tag -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}{{ with $image.digest }}@{{ . }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}
