using System;
using System.Collections.Generic;
using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>
    /// A client of a cluster: give it some hosts, and it finds the master, follows it when it changes, and repeats what may
    /// be repeated, within a total deadline. Make one and keep it; it may be used from many threads at once.
    /// </summary>
    /// <remarks>
    /// Each call has a blocking form and one with <c>Async</c>. Neither runs on the caller's synchronization context, so the
    /// blocking form is safe on a user interface's thread, which stands still meanwhile. A call ends with an answer, a
    /// <see cref="TanistException"/>, or, by its token, <see cref="OperationCanceledException"/>: whether a cancelled write was
    /// done can be found out with its idempotency key.
    /// </remarks>
    public sealed partial class TanistClient : IDisposable
    {
        readonly ClientOptions options;
        readonly Caller caller;
        readonly object mutex = new object();
        string position;

        /// <summary>A client with default times.</summary>
        /// <param name="hosts"><c>pc-1:8080,pc-2:8080</c>, the nearest first.</param>
        /// <exception cref="ArgumentException">The list can't be used.</exception>
        public TanistClient(string hosts) : this(new ClientOptions(hosts)) { }

        /// <summary>A client with other times.</summary>
        /// <param name="options">Hosts and times.</param>
        /// <exception cref="ArgumentException">A value can't be used.</exception>
        public TanistClient(ClientOptions options)
        {
            if (options == null) throw new ArgumentNullException("options");
            this.options = options.Checked();
            caller = new Caller(this.options);
            caller.Links.Changed = link =>
            {
                var changed = LinkChanged;
                if (changed != null) changed(this, new LinkChangedEventArgs(link));
            };
        }

        /// <summary>
        /// A link has changed: which machine serves, or that none does. Raised in order on the synchronization context of the
        /// thread that made the client (a form's own thread), else on the thread pool.
        /// </summary>
        public event EventHandler<LinkChangedEventArgs> LinkChanged;

        /// <summary>On which machine the calls of this kind are now.</summary>
        /// <param name="need">Those that need the master, or those that any machine serves.</param>
        public Link LinkOf(Need need) { return caller.Links[need]; }

        /// <summary>All hosts known now: those given and those learned.</summary>
        public IList<string> KnownHosts { get { return caller.KnownHosts; } }

        /// <summary>The newest position that an answer has had; <c>null</c> before the first.</summary>
        public string Position { get { lock (mutex) return position; } }

        /// <summary>Ends all calls and connections.</summary>
        public void Dispose() { caller.Dispose(); }

        /// <summary>Runs one statement as a transaction; answered when the cluster has stored it.</summary>
        /// <param name="sql">The statement.</param>
        /// <param name="parameters">As for <see cref="Statement"/>.</param>
        public Task<SqlResult> ExecuteAsync(string sql, params object[] parameters)
        {
            return ExecuteAsync(new[] { new Statement(sql, parameters) });
        }

        /// <summary>As <see cref="ExecuteAsync(string, object[])"/>, blocking.</summary>
        /// <param name="sql">The statement.</param>
        /// <param name="parameters">As for <see cref="Statement"/>.</param>
        public SqlResult Execute(string sql, params object[] parameters) { return Wait(ExecuteAsync(sql, parameters)); }

        /// <summary>Runs the statements as one transaction, all or nothing; answered when the cluster has stored it.</summary>
        /// <param name="statements">The statements.</param>
        /// <param name="write">Key and deadline, if they are not to be the default.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<SqlResult> ExecuteAsync(
            IEnumerable<Statement> statements, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            var call = Write(HttpMethod.Post, "/v1/execute", Statement.Body(statements), write);
            return Make(call, json => new SqlResult(json), cancel);
        }

        /// <summary>As <see cref="ExecuteAsync(IEnumerable{Statement}, WriteOptions, CancellationToken)"/>, blocking.</summary>
        /// <param name="statements">The statements.</param>
        /// <param name="write">Key and deadline, if they are not to be the default.</param>
        /// <param name="cancel">Ends the call early.</param>
        public SqlResult Execute(
            IEnumerable<Statement> statements, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ExecuteAsync(statements, write, cancel));
        }

        /// <summary>Runs one read-only statement with strong consistency.</summary>
        /// <param name="sql">The statement.</param>
        /// <param name="parameters">As for <see cref="Statement"/>.</param>
        public Task<SqlResult> QueryAsync(string sql, params object[] parameters)
        {
            return QueryAsync(new[] { new Statement(sql, parameters) });
        }

        /// <summary>As <see cref="QueryAsync(string, object[])"/>, blocking.</summary>
        /// <param name="sql">The statement.</param>
        /// <param name="parameters">As for <see cref="Statement"/>.</param>
        public SqlResult Query(string sql, params object[] parameters) { return Wait(QueryAsync(sql, parameters)); }

        /// <summary>Runs read-only statements on one snapshot.</summary>
        /// <param name="statements">The statements.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<SqlResult> QueryAsync(
            IEnumerable<Statement> statements, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            var call = Read(HttpMethod.Post, "/v1/query", read);
            call.Request.Body = Json.WriteBytes(Statement.Body(statements));
            return Make(call, json => new SqlResult(json), cancel);
        }

        /// <summary>As <see cref="QueryAsync(IEnumerable{Statement}, ReadOptions, CancellationToken)"/>, blocking.</summary>
        /// <param name="statements">The statements.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public SqlResult Query(
            IEnumerable<Statement> statements, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(QueryAsync(statements, read, cancel));
        }

        /// <summary>How the first machine that answers sees the cluster.</summary>
        /// <param name="cancel">Ends the call early.</param>
        public async Task<Cluster> ClusterAsync(CancellationToken cancel = default(CancellationToken))
        {
            // No ReadOptions: the view of a machine needs no position.
            var call = new Call { Deadline = options.Deadline, Request = { Path = "/v1/cluster" } };
            var cluster = await Make(call, json => new Cluster(json), cancel).ConfigureAwait(false);
            caller.Learn(cluster);
            return cluster;
        }

        /// <summary>As <see cref="ClusterAsync"/>, blocking.</summary>
        /// <param name="cancel">Ends the call early.</param>
        public Cluster Cluster(CancellationToken cancel = default(CancellationToken)) { return Wait(ClusterAsync(cancel)); }

        /// <summary>Hands the throne to this member and waits until it serves; done already if it is the master. No request fails
        /// meanwhile.</summary>
        /// <param name="member">Its name.</param>
        /// <param name="cancel">Ends the call early; the handover may go on.</param>
        /// <exception cref="ProblemException">Why it can't be; the old master reigns on.</exception>
        public Task<Handover> PromoteAsync(string member, CancellationToken cancel = default(CancellationToken))
        {
            return HandOver("/v1/cluster/promote", member, cancel);
        }

        /// <summary>As <see cref="PromoteAsync"/>, blocking.</summary>
        /// <param name="member">Its name.</param>
        /// <param name="cancel">Ends the call early; the handover may go on.</param>
        public Handover Promote(string member, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(PromoteAsync(member, cancel));
        }

        /// <summary>Hands the throne from this member to its heir and waits until that serves; done already if it isn't the master.</summary>
        /// <param name="member">Its name.</param>
        /// <param name="cancel">Ends the call early; the handover may go on.</param>
        /// <exception cref="ProblemException">Why it can't be; the old master reigns on.</exception>
        public Task<Handover> DemoteAsync(string member, CancellationToken cancel = default(CancellationToken))
        {
            return HandOver("/v1/cluster/demote", member, cancel);
        }

        /// <summary>As <see cref="DemoteAsync"/>, blocking.</summary>
        /// <param name="member">Its name.</param>
        /// <param name="cancel">Ends the call early; the handover may go on.</param>
        public Handover Demote(string member, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(DemoteAsync(member, cancel));
        }

        Task<Handover> HandOver(string path, string member, CancellationToken cancel)
        {
            // May be repeated without a key: it says who shall reign, not that the throne shall move.
            var call = new Call { Need = Need.Master, Deadline = options.Deadline, Changes = true, Request = { Method = HttpMethod.Post, Path = path } };
            call.Request.Body = Json.WriteBytes(new JsonObject { { "member", member } });
            return Make(call, json => new Handover(json), cancel);
        }

        Call Write(HttpMethod method, string path, object body, WriteOptions write)
        {
            write = write ?? new WriteOptions();
            if (write.Deadline.HasValue) ClientOptions.Check("Deadline", write.Deadline.Value);
            var call = new Call
            {
                Need = Need.Master,
                Deadline = write.Deadline ?? options.Deadline,
                Key = write.Key(),
                Request = { Method = method, Path = path },
            };
            if (body != null) call.Request.Body = Json.WriteBytes(body);
            call.Request.Header("Idempotency-Key", call.Key);
            call.Request.Header("If-Match", write.IfMatch);
            call.Request.Header("If-None-Match", write.IfNone ? "*" : null);
            return call;
        }

        Call Read(HttpMethod method, string path, ReadOptions read)
        {
            read = read ?? new ReadOptions();
            if (read.Deadline.HasValue) ClientOptions.Check("Deadline", read.Deadline.Value);
            var query = read.Query;
            if (query.Length > 0) path += (path.IndexOf('?') < 0 ? "?" : "&") + query;
            var call = new Call
            {
                Need = read.Need,
                Deadline = read.Deadline ?? options.Deadline,
                Request = { Method = method, Path = path },
            };
            // The master has everything; only a replica may be behind.
            var seen = options.Monotonic && read.Need == Need.Any ? Position : null;
            call.Request.Header("Tanist-Min-Position", Client.Position.Later(seen, read.MinPosition));
            return call;
        }

        Task<T> Make<T>(Call call, Func<JsonObject, T> read, CancellationToken cancel)
        {
            return Make(call, answer => Parse(answer, read), cancel);
        }

        /// <summary>Runs the call on the thread pool: the framework resolves names and connects on the calling thread at times.</summary>
        Task<T> Make<T>(Call call, Func<Answer, T> read, CancellationToken cancel)
        {
            return Task.Run(
                async () =>
                {
                    var answer = await caller.Run(call, cancel).ConfigureAwait(false);
                    lock (mutex) position = Client.Position.Later(position, answer.Position);
                    return read(answer);
                },
                cancel);
        }

        static T Parse<T>(Answer answer, Func<JsonObject, T> read)
        {
            try
            {
                return read(Json.ReadObject(answer.Body));
            }
            catch (FormatException error)
            {
                throw new UnexpectedAnswerException(answer.Host, error.Message, error);
            }
        }

        /// <summary>The answer of a task that needs no context to go on; its own exception, not an aggregate.</summary>
        static T Wait<T>(Task<T> task) { return task.GetAwaiter().GetResult(); }
    }
}
