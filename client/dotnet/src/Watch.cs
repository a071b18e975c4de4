using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>What to watch; everything, from now on, by default.</summary>
    public sealed class WatchOptions
    {
        /// <summary>After the event with this id, so that none is missed; <c>null</c>: from now on.</summary>
        public long? After { get; set; }

        /// <summary>Only these kinds: <c>config</c>, <c>node</c>, <c>desired</c>, <c>reported</c>, <c>command</c>, <c>cluster</c>, <c>row</c>.</summary>
        public ICollection<string> Kinds { get; set; }

        /// <summary>Only what begins so: keys of a group, or one node's events.</summary>
        public string SubjectPrefix { get; set; }

        /// <summary>Rows of these tables only.</summary>
        public ICollection<string> Tables { get; set; }

        internal string Path()
        {
            var query = new List<string>();
            if (After.HasValue) query.Add("after=" + After.Value.ToString(CultureInfo.InvariantCulture));
            if (Kinds != null && Kinds.Count > 0) query.Add("kinds=" + Uri.EscapeDataString(string.Join(",", Kinds)));
            if (!string.IsNullOrEmpty(SubjectPrefix)) query.Add("subject_prefix=" + Uri.EscapeDataString(SubjectPrefix));
            if (Tables != null && Tables.Count > 0) query.Add("tables=" + Uri.EscapeDataString(string.Join(",", Tables)));
            return "/v1/events" + (query.Count > 0 ? "?" + string.Join("&", query) : "");
        }
    }

    /// <summary>Something has changed.</summary>
    public sealed class ChangeEvent
    {
        internal ChangeEvent(long id, string kind, JsonObject json)
        {
            Id = id;
            Kind = kind;
            At = json.Text("at");
            Subject = json.Text("subject");
            Actor = json.TextOrNull("actor");
            Data = json["data"];
        }

        /// <summary>Grows from event to event; <see cref="WatchOptions.After"/> takes it.</summary>
        public long Id { get; private set; }

        /// <summary>As in <see cref="WatchOptions.Kinds"/>.</summary>
        public string Kind { get; private set; }

        /// <summary>When, by the master's wall clock, ISO 8601.</summary>
        public string At { get; private set; }

        /// <summary>The key, node, command, member or table.</summary>
        public string Subject { get; private set; }

        /// <summary>Who did it; <c>null</c> if unknown.</summary>
        public string Actor { get; private set; }

        /// <summary>What is so now, as in <see cref="JsonObject"/>.</summary>
        public object Data { get; private set; }
    }

    /// <summary>Follows the events from machine to machine; each is told once, in order.</summary>
    sealed class Watcher
    {
        /// <summary>A machine gives a sign of life every 5 s.</summary>
        static readonly TimeSpan Silence = TimeSpan.FromSeconds(15);
        /// <summary>A replica that is behind waits 5 s before it says so.</summary>
        static readonly TimeSpan HeadLimit = TimeSpan.FromSeconds(8);

        readonly Caller caller;
        readonly Request request;
        readonly Func<ChangeEvent, Task> tell;
        long? after;

        internal Watcher(Caller caller, WatchOptions options, Func<ChangeEvent, Task> tell)
        {
            this.caller = caller;
            this.tell = tell;
            after = options.After;
            request = new Request { Path = options.Path() };
        }

        /// <summary>Ends by cancellation, by an error of the handler, or when the events can't be had any more.</summary>
        internal async Task Run(CancellationToken cancel)
        {
            while (true)
            {
                var host = await caller.PickAny(cancel).ConfigureAwait(false);
                var ended = await Follow(host, cancel).ConfigureAwait(false);
                if (ended.Ending == Ending.Final) throw ended.Error;
                caller.Note(Need.Any, host, ended);
            }
        }

        /// <summary>One stream of one machine, to its end.</summary>
        async Task<Attempt> Follow(string host, CancellationToken cancel)
        {
            request.Headers.Clear();
            if (after.HasValue) request.Header("Last-Event-ID", after.Value.ToString(CultureInfo.InvariantCulture));
            using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel))
            {
                HttpResponseMessage response = null;
                var opening = Open(host, stop.Token);
                try
                {
                    if (!await Patience.Within(opening, HeadLimit, cancel).ConfigureAwait(false))
                        return Attempt.Unknown("no answer within " + HeadLimit.TotalSeconds + " s");
                    response = opening.Result;
                    if ((int)response.StatusCode != 200)
                        return Attempt.Judge(request, await Http.Whole(host, response, stop.Token).ConfigureAwait(false));
                    var type = response.Content.Headers.ContentType;
                    if (type == null || type.MediaType != "text/event-stream")
                        return Attempt.Final(new UnexpectedAnswerException(host, "found " + type + ", expected text/event-stream", null));
                }
                catch (NotSentException error)
                {
                    return Attempt.Refused(Trouble.Unreachable, error.Message);
                }
                catch (Exception error)
                {
                    cancel.ThrowIfCancellationRequested();
                    return Attempt.Unknown(Http.Chain(error));
                }
                finally
                {
                    // A head that comes too late is not waited for, but its connection must go.
                    if (response == null)
                    {
                        stop.Cancel();
                        Patience.Leave(opening.ContinueWith(late => late.Result.Dispose(), TaskContinuationOptions.OnlyOnRanToCompletion));
                    }
                    else if ((int)response.StatusCode != 200) response.Dispose();
                }
                caller.Links.OnServed(Need.Any, host);
                // On .NET Framework the body's stream doesn't listen to a token.
                using (response)
                using (stop.Token.Register(response.Dispose))
                {
                    try
                    {
                        return await Events(host, response, stop.Token).ConfigureAwait(false);
                    }
                    finally
                    {
                        stop.Cancel();
                    }
                }
            }
        }

        async Task<HttpResponseMessage> Open(string host, CancellationToken cancel)
        {
            await caller.Reach(host, cancel).ConfigureAwait(false);
            return await caller.Http.Open(host, request, cancel).ConfigureAwait(false);
        }

        async Task<Attempt> Events(string host, HttpResponseMessage response, CancellationToken cancel)
        {
            EventReader reader = null;
            for (var blocks = 0; ; blocks++)
            {
                // The first only says where it begins: a machine that then ends the stream at once has not served.
                if (blocks == 2) caller.OnServed(Need.Any, host);
                ServerSentEvent block;
                try
                {
                    if (reader == null) reader = new EventReader(await response.Content.ReadAsStreamAsync().ConfigureAwait(false));
                    var next = reader.Next(cancel);
                    if (!await Patience.Within(next, Silence, cancel).ConfigureAwait(false))
                        return Attempt.Unknown("no sign of life for " + Silence.TotalSeconds + " s");
                    block = next.Result;
                }
                catch (InvalidDataException error)
                {
                    return Attempt.Final(new UnexpectedAnswerException(host, error.Message, error));
                }
                catch (Exception error)
                {
                    cancel.ThrowIfCancellationRequested();
                    return Attempt.Unknown(Http.Chain(error));
                }
                if (block == null) return Attempt.Unknown("the stream of events has ended");
                ChangeEvent change;
                try
                {
                    if (block.Data != null && block.Name == "end") return Ended(block);
                    change = Read(block);
                }
                catch (FormatException error)
                {
                    return Attempt.Final(new UnexpectedAnswerException(host, error.Message, error));
                }
                if (change != null) await tell(change).ConfigureAwait(false);
            }
        }

        /// <summary>The event of a block, if it has one that hasn't been told; the place in the stream moves on.</summary>
        ChangeEvent Read(ServerSentEvent block)
        {
            if (string.IsNullOrEmpty(block.Id)) return null;
            long id;
            if (!long.TryParse(block.Id, NumberStyles.None, CultureInfo.InvariantCulture, out id))
                throw new FormatException("id: found " + block.Id + ", expected a number");
            var isNew = !after.HasValue || id > after;
            if (isNew) after = id;
            if (!isNew || block.Data == null) return null;
            return new ChangeEvent(id, block.Name, Object(block.Data));
        }

        /// <summary>Why the machine ends the stream: go on at another, or there is no going on.</summary>
        static Attempt Ended(ServerSentEvent block)
        {
            var json = Object(block.Data);
            var code = json.Text("code");
            var detail = json.TextOrNull("detail") ?? code;
            if (code != "events-pruned" && code != "events-lost") return Attempt.Refused(Trouble.Refusing, detail);
            json["status"] = 410L;
            return Attempt.Final(new ProblemException(new Problem(json)));
        }

        static JsonObject Object(string data)
        {
            var json = Json.Read(data) as JsonObject;
            if (json == null) throw new FormatException("data: found " + data + ", expected an object");
            return json;
        }
    }

    public sealed partial class TanistClient
    {
        /// <summary>
        /// Tells of every change, once and in order, from machine to machine, until it is cancelled. The handler runs on
        /// the caller's synchronization context (a form's own thread) if there is one, one event at a time; the next event is fetched
        /// when it returns.
        /// </summary>
        /// <param name="options">What to watch and from where.</param>
        /// <param name="handler">Its exception ends the watch.</param>
        /// <param name="cancel">Ends it.</param>
        /// <exception cref="ProblemException">
        /// <c>events-pruned</c> or <c>events-lost</c>: events in between can't be had. Read anew what is followed together with
        /// <c>SELECT events FROM tanist_position</c> in one strong query, then watch on after that number.
        /// </exception>
        /// <exception cref="OperationCanceledException">By the token, or the client was disposed of.</exception>
        public Task WatchAsync(WatchOptions options, Action<ChangeEvent> handler, CancellationToken cancel)
        {
            if (handler == null) throw new ArgumentNullException("handler");
            var context = SynchronizationContext.Current;
            return Task.Run(
                async () =>
                {
                    using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel, caller.Disposed))
                    {
                        var token = stop.Token;
                        var watcher = new Watcher(caller, options ?? new WatchOptions(), change => Tell(context, handler, change, token));
                        await watcher.Run(token).ConfigureAwait(false);
                    }
                },
                cancel);
        }

        /// <summary>Says whether changes of this table's rows are told to watchers. May be repeated without harm.</summary>
        /// <param name="table">A table of the application's own.</param>
        /// <param name="watched">Whether they are told.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task SetWatchedAsync(string table, bool watched, CancellationToken cancel = default(CancellationToken))
        {
            var call = new Call { Need = Need.Master, Deadline = options.Deadline };
            call.Request.Method = watched ? HttpMethod.Put : HttpMethod.Delete;
            call.Request.Path = Path("watched-tables", table);
            return Make(call, json => json.Flag("watched"), cancel);
        }

        /// <summary>As <see cref="SetWatchedAsync"/>, blocking.</summary>
        /// <param name="table">A table of the application's own.</param>
        /// <param name="watched">Whether they are told.</param>
        /// <param name="cancel">Ends the call early.</param>
        public void SetWatched(string table, bool watched, CancellationToken cancel = default(CancellationToken))
        {
            SetWatchedAsync(table, watched, cancel).GetAwaiter().GetResult();
        }

        static async Task Tell(SynchronizationContext context, Action<ChangeEvent> handler, ChangeEvent change, CancellationToken cancel)
        {
            if (context == null)
            {
                handler(change);
                return;
            }
            var told = new TaskCompletionSource<bool>();
            context.Post(
                state =>
                {
                    if (cancel.IsCancellationRequested)
                    {
                        told.TrySetCanceled();
                        return;
                    }
                    try
                    {
                        handler(change);
                        told.TrySetResult(true);
                    }
                    catch (Exception error)
                    {
                        told.TrySetException(error);
                    }
                },
                null);
            // A window that has been closed takes no posts any more.
            using (cancel.Register(() => told.TrySetCanceled()))
                await told.Task.ConfigureAwait(false);
        }
    }
}
