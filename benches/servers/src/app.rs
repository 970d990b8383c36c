//! Serving of an app on a port, the same for each contestant on axum.

use axum::Router;
use axum::serve::ListenerExt as _;

/// Serves an app on this port until the process ends.
pub async fn serve(port: u16, app: Router) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listener.tap_io(|stream| {
        // As in fanwire: frames are small, and must not wait for a full packet.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await
}
