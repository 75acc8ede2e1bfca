# Starts Redis with the user and password of the Secret, which it reads from its standard input: they stand in no file
# and in no argument. A new password in the Secret holds after a restart.
set -eu
quoted() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }
user=$(quoted "$REDIS_USERNAME")
password=$(quoted "$REDIS_PASSWORD")
exec redis-server /etc/redis/redis.conf - <<EOF
requirepass "$password"
user "$user" on ~* &* +@all ">$password"
EOF
