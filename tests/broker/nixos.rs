//! The script by which the NixOS module makes its user at a RabbitMQ of the host.

use super::world::shared;
use stratavore::adapters::rabbitmq::RabbitMq;
use stratavore::domain::secret::Secret;
use stratavore::ports::Broker;

const SCRIPT: &str = include_str!("../../nixos-module/amqp-user.sh");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_user_may_write_one_exchange_and_nothing_else() {
    let rabbit = shared().await;
    // What would be more than itself in a regular expression.
    let exchange = "x.nix+(os)[1]^$";
    let script = |password: &'static str| {
        tokio::task::spawn_blocking(move || rabbit.script(SCRIPT, &[exchange], password))
    };
    let options = |exchange: &str, password: &str| {
        let mut options = rabbit.options(exchange);
        options.servers[0].user = "stratavore".to_owned();
        options.password = Some(Secret::new(password.to_owned()));
        RabbitMq::new(options)
    };
    script("first").await.unwrap();
    let right = options(exchange, "first");
    right.connect().await.unwrap().close().await;
    for other in ["xanix+(os)[1]^$", "x.nix+(os)[1]^$.more"] {
        let why = options(other, "first").connect().await.err();
        let why = why.map(|e| e.to_string()).unwrap_or_default();
        assert!(
            why.contains("ACCESS") || why.contains("NOT"),
            "{other}: {why}"
        );
    }
    // Done again, with another password.
    script("second").await.unwrap();
    assert!(right.connect().await.is_err());
    options(exchange, "second")
        .connect()
        .await
        .unwrap()
        .close()
        .await;
}
