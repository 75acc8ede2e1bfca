# Brings the server in line with the chart: the password that the Secret has, a database for each service. The server
# that initialises the data folder does not listen on TCP, so this waits for the real one.
set -eu
until pg_isready -q -h 127.0.0.1; do sleep 0.2; done
psql -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres <<'SQL'
\getenv name POSTGRES_USER
\getenv secret POSTGRES_PASSWORD
ALTER ROLE :"name" PASSWORD :'secret';
SELECT format('CREATE DATABASE %I', name)
FROM unnest(string_to_array('{{ include "antiphon.databases" . }}', ',')) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
SQL
