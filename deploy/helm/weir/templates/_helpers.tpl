{{- define "weir.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.peers" -}}
{{- $port := .Values.agent.port -}}
{{- $peers := list -}}
{{- range .Values.nodes -}}
{{- $peers = append $peers (printf "%s=http://%s:%v" .name .address $port) -}}
{{- end -}}
{{- join "," $peers -}}
{{- end }}
