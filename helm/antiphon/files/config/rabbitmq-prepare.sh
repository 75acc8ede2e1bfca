# Writes what must not be in a ConfigMap: the Erlang cookie, for its owner alone, and the user with its password.
# RabbitMQ reads the definitions at every start, so a new password in the Secret holds after a restart.
set -eu
umask 077
cd /var/lib/rabbitmq
quoted() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }
user=$(quoted "$RABBITMQ_USERNAME")
password=$(quoted "$RABBITMQ_PASSWORD")
rm -f .erlang.cookie
printf %s "$ERLANG_COOKIE" >.erlang.cookie
chmod 400 .erlang.cookie
cat >definitions.json <<EOF
{
  "vhosts": [{"name": "/"}],
  "users": [{"name": "$user", "password": "$password", "tags": "administrator"}],
  "permissions": [{"user": "$user", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]
}
EOF
