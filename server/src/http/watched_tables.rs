//! `/v1/watched-tables`: whose rows are told to watchers. Any machine lists them as its replica has them, the master
//! changes them.

use axum::{
    Json,
    extract::State,
    http::Uri,
    response::{IntoResponse as _, Response},
};
use tanist_api::{WatchedTable, WatchedTables};

use super::{ApiError, AppState, execute::insert_position, path::Part};
use crate::{
    watch::{self, WatchTable},
    write::WriteError,
};

pub(super) async fn list(State(state): State<AppState>) -> Result<Json<WatchedTables>, ApiError> {
    let tables = state.0.readers.run(watch::list).await.map_err(ApiError::read)?;
    Ok(Json(WatchedTables { tables }))
}

pub(super) async fn get(
    State(state): State<AppState>,
    Part(table): Part,
) -> Result<Json<WatchedTable>, ApiError> {
    let read = state
        .0
        .readers
        .run(move |connection| Ok((watch::find(connection, &table)?, watch::list(connection)?)));
    let (found, watched) = read.await.map_err(ApiError::read)?;
    let table = found.map_err(|unfit| ApiError::unfit(&unfit))?;
    Ok(Json(WatchedTable { watched: watched.contains(&table), table }))
}

pub(super) async fn put(
    State(state): State<AppState>,
    Part(table): Part,
    uri: Uri,
) -> Result<Response, ApiError> {
    change(&state, WatchTable { table, watched: true }, &uri).await
}

pub(super) async fn delete(
    State(state): State<AppState>,
    Part(table): Part,
    uri: Uri,
) -> Result<Response, ApiError> {
    change(&state, WatchTable { table, watched: false }, &uri).await
}

async fn change(state: &AppState, asked: WatchTable, uri: &Uri) -> Result<Response, ApiError> {
    let state = &*state.0;
    state.reign(uri).await?;
    let watched = asked.watched;
    let done = match state.writer.watch(asked).await {
        Ok(done) => done,
        Err(WriteError::NotMaster) => {
            state.reign(uri).await?;
            return Err(ApiError::not_master(&state.gate.view(), uri));
        }
        Err(error) => return Err(ApiError::write(error, &state.gate.view(), uri)),
    };
    let table = serde_json::from_slice(&done.answer).unwrap_or_default();
    let mut response = Json(WatchedTable { table, watched }).into_response();
    insert_position(response.headers_mut(), done.position);
    Ok(response)
}
