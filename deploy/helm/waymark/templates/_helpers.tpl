{{/* `default` or the revision's name. */}}
{{- define "waymark.revision" -}}
{{ .Values.revision | default "default" }}
{{- end }}

{{/* A name with the revision behind it, when there is one. */}}
{{- define "waymark.named" -}}
{{- $name := index . 0 }}{{ $revision := (index . 1).Values.revision -}}
{{ if $revision }}{{ printf "%s-%s" $name $revision }}{{ else }}{{ $name }}{{ end }}
{{- end }}

{{/* What clients find the control plane by. */}}
{{- define "waymark.service" -}}
{{ include "waymark.named" (list "istiod" .) }}
{{- end }}

{{- define "waymark.account" -}}
{{ include "waymark.named" (list "waymark-controlplane" .) }}
{{- end }}

{{/* Name of what has no namespace. */}}
{{- define "waymark.clusterwide" -}}
{{ printf "%s-%s" (include "waymark.account" .) .Release.Namespace }}
{{- end }}

{{- define "waymark.discovery" -}}
{{ .Values.mesh.discoveryAddress | default (printf "%s.%s.svc:15012" (include "waymark.service" .) .Release.Namespace) }}
{{- end }}

{{- define "waymark.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "waymark.labels" -}}
app.kubernetes.io/name: waymark
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: waymark
istio.io/rev: {{ include "waymark.revision" . }}
{{- end }}

{{/* The control plane's pods. */}}
{{- define "waymark.selector" -}}
app: istiod
istio.io/rev: {{ include "waymark.revision" . }}
{{- end }}

{{- define "waymark.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
