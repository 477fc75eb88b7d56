{{/* What is open in the network of a component: dict "root" "name". Everything else is closed. */}}

{{- define "mistudio.openIn" -}}
{{- $values := .root.Values -}}
{{- if eq .name (include "mistudio.entry" .root) -}}
- ports:
    - {protocol: TCP, port: 8001}
    - {protocol: TCP, port: 50051}
  {{- with $values.networkPolicy.gatewayFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- else -}}
- ports:
    - {protocol: TCP, port: 50051}
  from:
    {{- include "mistudio.podsOf" (dict "root" .root "names" (prepend (without (list "train" "find" "explain") .name) "gateway")) | nindent 4 }}
{{- end -}}
{{- end -}}

{{- define "mistudio.openOut" -}}
{{- $values := .root.Values -}}
{{- $explains := or (eq .name "explain") (eq .name "embedded") -}}
{{- $fetches := and $values.engines.vllm.enabled $values.engines.vllm.download -}}
{{- $loads := ternary $fetches (ne .name "gateway") (eq .name "explain") -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
  to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ $values.networkPolicy.dnsNamespace }}}
{{- if ne .name "embedded" }}
- ports:
    - {protocol: TCP, port: 50051}
  to:
    {{- include "mistudio.podsOf" (dict "root" .root "names" (without (list "train" "find" "explain") .name)) | nindent 4 }}
{{- end }}
{{- if and $loads $values.hub.enabled }}
- ports:
    - {protocol: TCP, port: 443}
  to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
    - ipBlock:
        cidr: 2000::/3
{{- end }}
{{- if $explains }}
{{- with $values.engines.ollama }}
{{- if .enabled }}
{{- $url := urlParse .baseUrl }}
- ports:
    - {protocol: TCP, port: {{ default (ternary "443" "80" (eq $url.scheme "https")) (regexFind "[0-9]+$" (trimPrefix $url.hostname $url.host)) }}}
  to:
    {{- include "mistudio.ollamaPeer" . | nindent 4 }}
{{- end }}
{{- end }}
{{- with $values.networkPolicy.explainEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Pods of components: dict "root" "names". */}}
{{- define "mistudio.podsOf" -}}
- podSelector:
    matchLabels:
      {{- include "mistudio.selector" (dict "root" .root "name" "") | nindent 6 }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: {{ toJson .names }}}
{{- end -}}

{{/* Where Ollama stands: an address range, an address, or a namespace. */}}
{{- define "mistudio.ollamaPeer" -}}
{{- $host := include "mistudio.hostOf" .baseUrl -}}
{{- if .egressCidr -}}
- ipBlock: {cidr: {{ .egressCidr }}}
{{- else if regexMatch "^[0-9.]+$" $host -}}
- ipBlock: {cidr: {{ $host }}/32}
{{- else -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ index (splitList "." $host) 1 }}}
{{- end -}}
{{- end -}}
