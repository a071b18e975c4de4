using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>A call: a request with its needs, its time, and its key if it is a write.</summary>
    sealed class Call
    {
        internal readonly Request Request = new Request();
        internal Need Need = Need.Any;
        /// <summary>Total time.</summary>
        internal TimeSpan Deadline;
        /// <summary>The key, if the call is a write.</summary>
        internal string Key;
        /// <summary>It changes the cluster, and has no key.</summary>
        internal bool Changes;
    }

    /// <summary>How one attempt ended.</summary>
    enum Ending
    {
        Done,
        /// <summary>Another machine is the master.</summary>
        Redirect,
        /// <summary>Not served; nothing was done.</summary>
        Refused,
        /// <summary>Not answered; something may have been done.</summary>
        Unknown,
        /// <summary>Not answered, and there is another master by now.</summary>
        Superseded,
        Final,
    }

    sealed class Attempt
    {
        internal Ending Ending;
        internal Answer Answer;
        /// <summary>The master, for a redirect or when superseded.</summary>
        internal string To;
        internal string Why;
        internal Trouble Trouble = Trouble.Unreachable;
        internal TimeSpan? RetryAfter;
        internal TanistException Error;

        internal static Attempt Unknown(string why) { return new Attempt { Ending = Ending.Unknown, Why = why }; }

        internal static Attempt Refused(Trouble trouble, string why)
        {
            return new Attempt { Ending = Ending.Refused, Trouble = trouble, Why = why };
        }

        internal static Attempt Final(TanistException error) { return new Attempt { Ending = Ending.Final, Error = error }; }

        /// <summary>The verdict on an answer.</summary>
        internal static Attempt Judge(Request request, Answer answer)
        {
            if (answer.Status == 307 || answer.Status == 308) return JudgeRedirect(request, answer);
            if (answer.Status == 304 || answer.Status >= 200 && answer.Status < 300)
                return new Attempt { Ending = Ending.Done, Answer = answer };
            Problem problem;
            try
            {
                problem = new Problem(Json.ReadObject(answer.Body));
            }
            catch (FormatException error)
            {
                // Not Tanist's own answer (something in between), so nothing is known of the request.
                if (answer.Status >= 500) return Unknown("status " + answer.Status);
                // Whoever says so, hasn't done it.
                if (answer.Status == 429) return Refused(Trouble.Busy, "status 429").After(answer);
                var why = "status " + answer.Status + " without a problem document: " + error.Message;
                return Final(new UnexpectedAnswerException(answer.Host, why, error));
            }
            Trouble trouble;
            switch (problem.Code)
            {
                case "outcome-unknown":
                case "internal":
                    return Unknown(problem.Detail);
                case "overloaded":
                case "database-locked":
                case "outside-write":
                case "rate-limited":
                case "not-enough-backups":
                    trouble = Trouble.Busy;
                    break;
                default:
                    if (answer.Status != 503) return Final(new ProblemException(problem));
                    trouble = Trouble.Refusing;
                    break;
            }
            return Refused(trouble, problem.Detail).After(answer);
        }

        /// <summary>Not before the time that the answer names.</summary>
        Attempt After(Answer answer)
        {
            uint seconds;
            if (uint.TryParse(answer.RetryAfter, NumberStyles.None, CultureInfo.InvariantCulture, out seconds))
                RetryAfter = TimeSpan.FromSeconds(seconds);
            return this;
        }

        static Attempt JudgeRedirect(Request request, Answer answer)
        {
            var location = answer.Location ?? "";
            var scheme = location.IndexOf("://", StringComparison.Ordinal);
            var slash = scheme < 0 ? -1 : location.IndexOf('/', scheme + 3);
            var to = slash < 0 ? null : Hosts.ParseOne(location.Substring(0, slash));
            // Both by the framework's reading, which may write an escape differently.
            Uri uri;
            if (to != null && Uri.TryCreate(location, UriKind.Absolute, out uri)
                && uri.PathAndQuery == new Uri(answer.Host + request.Path).PathAndQuery)
                return new Attempt { Ending = Ending.Redirect, To = to };
            return Refused(Trouble.Refusing, "a redirect to \"" + location + "\", which is no machine's " + request.Path);
        }
    }

    /// <summary>
    /// The course of a call: attempts on the hosts that the policy picks, until one serves it or its time is over. Never
    /// sends a write without its idempotency key, which alone makes it safe to send it again.
    /// </summary>
    sealed class Caller : IDisposable
    {
        /// <summary>After so long without an answer, ask whether there is another master by now; and again, as often.</summary>
        static readonly TimeSpan LookAround = TimeSpan.FromMilliseconds(500);

        /// <summary>An attempt in less than this could only make an outcome unknown.</summary>
        static readonly TimeSpan LeastTime = TimeSpan.FromMilliseconds(10);

        internal readonly Http Http;
        internal readonly Links Links;
        readonly Learner learner;
        readonly Hosts hosts;
        readonly ClientOptions options;
        readonly SemaphoreSlim places;
        readonly CancellationTokenSource disposed = new CancellationTokenSource();

        internal Caller(ClientOptions options)
        {
            this.options = options;
            var seed = BitConverter.ToUInt64(Guid.NewGuid().ToByteArray(), 8);
            hosts = new Hosts(Hosts.Parse(options.Hosts), seed);
            places = new SemaphoreSlim(options.MaxConcurrent);
            Http = new Http(options);
            Links = new Links();
            learner = new Learner(hosts, Links, View);
        }

        /// <summary>Ends when the client is disposed of.</summary>
        internal CancellationToken Disposed { get { return disposed.Token; } }

        /// <summary>As <see cref="Tanist.Client.Http.Reach"/>, as patiently as the host deserves.</summary>
        internal Task Reach(string host, CancellationToken cancel)
        {
            TimeSpan patience;
            lock (hosts) patience = hosts.ConnectPatience(host, options.ConnectTimeout, Clock.Now);
            return Http.Reach(host, patience, cancel);
        }

        internal List<string> KnownHosts { get { lock (hosts) return hosts.All; } }

        public void Dispose()
        {
            disposed.Cancel();
            Http.Dispose();
        }

        /// <summary>Makes the call, within its deadline.</summary>
        internal async Task<Answer> Run(Call call, CancellationToken cancel)
        {
            if (disposed.IsCancellationRequested) throw new ObjectDisposedException("TanistClient");
            using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel, disposed.Token))
            {
                var until = Clock.Now + call.Deadline;
                if (!await places.WaitAsync(call.Deadline, stop.Token).ConfigureAwait(false))
                    throw new UnavailableException(call.Deadline, "none", options.MaxConcurrent + " calls are under way already");
                try
                {
                    return await Attempts(call, until, stop.Token).ConfigureAwait(false);
                }
                finally
                {
                    places.Release();
                }
            }
        }

        async Task<Answer> Attempts(Call call, TimeSpan until, CancellationToken cancel)
        {
            var unknown = false;
            var tried = new List<string>();
            var last = "there was no time for an attempt";
            var attempts = 0;
            while (true)
            {
                cancel.ThrowIfCancellationRequested();
                var left = until - Clock.Now;
                if (left < LeastTime) break;
                TimeSpan wait;
                string host;
                lock (hosts) host = hosts.Pick(call.Need, Clock.Now, out wait);
                if (host == null)
                {
                    var pause = wait < left ? wait : left;
                    await Task.Delay(pause.TotalMilliseconds < 1 ? TimeSpan.FromMilliseconds(1) : pause, cancel).ConfigureAwait(false);
                    continue;
                }
                if (!tried.Contains(host)) tried.Add(host);
                attempts++;
                var limit = left < options.AttemptTimeout ? left : options.AttemptTimeout;
                var ended = await OneAttempt(host, call, limit, cancel).ConfigureAwait(false);
                if (ended.Ending == Ending.Done || ended.Ending == Ending.Final)
                {
                    OnServed(call.Need, host);
                    if (ended.Ending == Ending.Final) throw ended.Error;
                    learner.Refresh(host, attempts > 1);
                    return ended.Answer;
                }
                last = host + ": " + Note(call.Need, host, ended);
                unknown |= ended.Ending == Ending.Unknown || ended.Ending == Ending.Superseded;
            }
            if (call.Key != null && unknown) throw new OutcomeUnknownException(call.Key, call.Deadline, last);
            if (call.Changes && unknown) throw new UnconfirmedException(call.Deadline, last);
            throw new UnavailableException(call.Deadline, string.Join(", ", tried), last);
        }

        /// <summary>The next host for what any machine serves; waits until one may be asked.</summary>
        internal async Task<string> PickAny(CancellationToken cancel)
        {
            while (true)
            {
                cancel.ThrowIfCancellationRequested();
                TimeSpan wait;
                string host;
                lock (hosts) host = hosts.Pick(Need.Any, Clock.Now, out wait);
                if (host != null) return host;
                await Task.Delay(wait.TotalMilliseconds < 1 ? TimeSpan.FromMilliseconds(1) : wait, cancel).ConfigureAwait(false);
            }
        }

        /// <summary>Tells the policy and the observers that a host serves.</summary>
        internal void OnServed(Need need, string host)
        {
            lock (hosts) hosts.OnServed(host, need);
            Links.OnServed(need, host);
        }

        /// <summary>Tells the policy and the observers how an attempt failed; gives the reason in words.</summary>
        internal string Note(Need need, string host, Attempt ended)
        {
            var why = ended.Why;
            lock (hosts)
            {
                switch (ended.Ending)
                {
                    case Ending.Redirect:
                        hosts.OnRedirect(host, ended.To, Clock.Now);
                        return "the master is " + ended.To;
                    case Ending.Superseded:
                        why = "no answer, and " + ended.To + " is the master by now";
                        Http.Forget(host);
                        hosts.OnTrouble(host, Trouble.Unreachable, null, Clock.Now);
                        hosts.OnMaster(ended.To);
                        break;
                    default:
                        hosts.OnTrouble(host, ended.Trouble, ended.RetryAfter, Clock.Now);
                        break;
                }
            }
            // A machine that is busy is there.
            if (ended.Trouble != Trouble.Busy) Links.OnTrouble(need, host, why);
            return why;
        }

        async Task<Attempt> OneAttempt(string host, Call call, TimeSpan limit, CancellationToken cancel)
        {
            if (call.Need == Need.Any) return await Exchange(host, call.Request, limit, cancel).ConfigureAwait(false);
            using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel))
            {
                var exchange = Exchange(host, call.Request, limit, stop.Token);
                var serves = true;
                var pause = LookAround;
                while (true)
                {
                    var look = Look(host, serves, pause, stop.Token);
                    var first = await Task.WhenAny(exchange, look).ConfigureAwait(false);
                    var ended = first == exchange ? null : await look.ConfigureAwait(false);
                    pause = LookAround;
                    if (first != exchange && ended == null) continue;
                    if (first != exchange && ended.Ending != Ending.Superseded)
                    {
                        // Asked until it is silent once: if it comes back, its answer ends the attempt.
                        serves = false;
                        pause = TimeSpan.Zero;
                        Links.OnTrouble(Need.Master, host, ended.Why);
                        continue;
                    }
                    stop.Cancel();
                    Patience.Leave(first == exchange ? look : exchange);
                    return ended ?? await exchange.ConfigureAwait(false);
                }
            }
        }

        /// <summary>One request to one host, its whole answer included in the time limit.</summary>
        internal async Task<Attempt> Exchange(string host, Request request, TimeSpan limit, CancellationToken cancel)
        {
            using (var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel))
            {
                try
                {
                    var until = Clock.Now + limit;
                    if (!await Patience.Within(Reach(host, stop.Token), limit, cancel).ConfigureAwait(false))
                        return Attempt.Refused(Trouble.Unreachable, "no connection within " + limit.TotalSeconds + " s");
                    var left = until - Clock.Now;
                    if (left <= TimeSpan.Zero) return Attempt.Refused(Trouble.Unreachable, "no time left after connecting");
                    var sending = Http.Send(host, request, stop.Token);
                    if (await Patience.Within(sending, left, cancel).ConfigureAwait(false))
                        return Attempt.Judge(request, sending.Result);
                    Http.Forget(host);
                    return Attempt.Unknown("no whole answer within " + limit.TotalSeconds + " s");
                }
                catch (NotSentException error)
                {
                    return Attempt.Refused(Trouble.Unreachable, error.Message);
                }
                catch (InvalidDataException error)
                {
                    return Attempt.Final(new UnexpectedAnswerException(host, error.Message, error));
                }
                catch (Exception error)
                {
                    // The framework has many exceptions for a broken connection; all mean the same here.
                    cancel.ThrowIfCancellationRequested();
                    Http.Forget(host);
                    return Attempt.Unknown(Http.Chain(error));
                }
                finally
                {
                    stop.Cancel();
                }
            }
        }

        /// <summary>After a pause, whether the asked machine still serves, or else whether another one reigns instead: a machine without
        /// power doesn't even break its connections. <c>null</c>: nothing new.</summary>
        async Task<Attempt> Look(string host, bool serves, TimeSpan pause, CancellationToken cancel)
        {
            await Task.Delay(pause, cancel).ConfigureAwait(false);
            if (serves)
            {
                if (Serves(await View(host, LookAround, cancel).ConfigureAwait(false))) return null;
                return Attempt.Unknown("no answer for " + LookAround.TotalMilliseconds + " ms");
            }
            foreach (var other in KnownHosts.Where(known => known != host))
            {
                var cluster = await View(other, LookAround, cancel).ConfigureAwait(false);
                if (!Serves(cluster)) continue;
                learner.Learn(cluster);
                return new Attempt { Ending = Ending.Superseded, To = other };
            }
            return null;
        }

        static bool Serves(Cluster cluster) { return cluster != null && cluster.Writable && cluster.Master == cluster.Member; }

        /// <summary>The cluster as one machine sees it, by one attempt; <c>null</c> if it doesn't say.</summary>
        internal async Task<Cluster> View(string host, TimeSpan limit, CancellationToken cancel)
        {
            var ended = await Exchange(host, new Request { Path = "/v1/cluster" }, limit, cancel).ConfigureAwait(false);
            return ended.Ending == Ending.Done ? Cluster.TryRead(ended.Answer) : null;
        }

        internal void Learn(Cluster cluster) { learner.Learn(cluster); }
    }
}
