# amqp-user.sh EXCHANGE: gives the user stratavore of this host's RabbitMQ the password of the credential "password", and
# the right to make and write that exchange. It may be done again at any time.
set -eu
exchange=$1
password=$CREDENTIALS_DIRECTORY/password

rabbitmqctl --quiet await_startup --timeout 120
# By standard input, so that it is in no command line.
rabbitmqctl --quiet add_user stratavore <"$password" >/dev/null 2>&1 ||
    rabbitmqctl --quiet change_password stratavore <"$password"
# Rights are regular expressions, and a name may have their special characters.
name=$(printf '%s' "$exchange" | sed 's/[][\.*^$+?(){}|]/\\&/g')
rabbitmqctl --quiet set_permissions stratavore "^$name\$" "^$name\$" '^$'
