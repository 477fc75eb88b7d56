{{/* The pod of every workload: dict "root" "name". What differs between components stands in _components.tpl. */}}

{{- define "mistudio.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $own := index $values .name -}}
{{- $gpu := default (dict "count" 0) $own.gpu -}}
{{- $component := include "mistudio.component" . | fromYaml -}}
metadata:
  labels:
    {{- include "mistudio.labels" . | nindent 4 }}
  annotations:
    checksum/config: {{ include "mistudio.engines" $root | sha256sum }}
spec:
  serviceAccountName: {{ include "mistudio.fullname" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $own.terminationGracePeriodSeconds }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if $gpu.count }}
  {{- with $gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- end }}
  {{- with merge (dict) $own.nodeSelector (ternary $gpu.nodeSelector (dict) (gt (int $gpu.count) 0)) }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with concat $own.tolerations (ternary $gpu.tolerations (list) (gt (int $gpu.count) 0)) }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int $values.userId }}
    runAsGroup: {{ int $values.userId }}
    fsGroup: {{ int $values.userId }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: {{ .name }}
      image: {{ include "mistudio.image" (dict "root" $root "own" $own) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        {{- toYaml $component.args | nindent 8 }}
      env:
        {{- include "mistudio.env" (dict "root" $root "component" $component) | nindent 8 }}
      ports:
        {{- range $port, $number := $component.ports }}
        - {name: {{ $port }}, containerPort: {{ int $number }}}
        {{- end }}
      startupProbe:
        grpc: {{ include "mistudio.probe" $component.ready }}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      readinessProbe:
        grpc: {{ include "mistudio.probe" $component.ready }}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        grpc: {{ include "mistudio.probe" "" }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if $component.drainFirst }}
      lifecycle:
        preStop: {sleep: {seconds: 5}}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources:
        {{- range $kind := list "requests" "limits" }}
        {{ $kind }}:
          {{- toYaml (index $own.resources $kind) | nindent 10 }}
          {{- if $gpu.count }}
          {{ $gpu.resource }}: {{ int $gpu.count }}
          {{- end }}
        {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: tls, mountPath: /etc/mistudio/tls, readOnly: true}
        {{- if $component.keeps }}
        - {name: auth, mountPath: /etc/mistudio/auth, readOnly: true}
        - {name: home, mountPath: /var/lib/mistudio}
        {{- end }}
        {{- if $component.shares }}
        - {name: shared, mountPath: /var/lib/mistudio-shared}
        {{- end }}
        {{- if $component.explains }}
        - {name: engines, mountPath: /etc/mistudio/engines, readOnly: true}
        {{- if $values.engines.keysSecret }}
        - {name: keys, mountPath: /etc/mistudio/keys, readOnly: true}
        {{- end }}
        {{- end }}
        {{- if $gpu.count }}
        - {name: shm, mountPath: /dev/shm}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: tls
      secret: {secretName: {{ include "mistudio.tlsSecret" $root }}, defaultMode: 0440}
    {{- if $component.keeps }}
    - name: auth
      secret: {secretName: {{ $values.auth.existingSecret }}, defaultMode: 0440}
    - name: home
      persistentVolumeClaim:
        claimName: {{ default (include "mistudio.name" .) $own.persistence.existingClaim }}
    {{- end }}
    {{- if $component.shares }}
    - name: shared
      persistentVolumeClaim:
        claimName: {{ default (include "mistudio.name" (dict "root" $root "name" "shared")) $values.shared.existingClaim }}
    {{- end }}
    {{- if $component.explains }}
    - name: engines
      configMap: {name: {{ include "mistudio.name" (dict "root" $root "name" "engines") }}}
    {{- with $values.engines.keysSecret }}
    - name: keys
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- end }}
    {{- if $gpu.count }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $gpu.sharedMemory }}}
    {{- end }}
{{- end -}}

{{/* A gRPC probe of the health-only port; the argument is the name that it asks about, empty for the process. */}}
{{- define "mistudio.probe" -}}
{port: 50060{{ with . }}, service: {{ . }}{{ end }}}
{{- end -}}
