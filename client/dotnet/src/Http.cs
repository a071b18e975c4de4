using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Net.Http;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>One request as it is sent, the same to every host.</summary>
    sealed class Request
    {
        internal HttpMethod Method = HttpMethod.Get;
        /// <summary>Path and query.</summary>
        internal string Path;
        internal byte[] Body;
        internal string ContentType = "application/json";
        internal readonly List<KeyValuePair<string, string>> Headers = new List<KeyValuePair<string, string>>();

        internal void Header(string name, string value)
        {
            if (value != null) Headers.Add(new KeyValuePair<string, string>(name, value));
        }
    }

    /// <summary>One whole answer.</summary>
    sealed class Answer
    {
        internal string Host;
        internal int Status;
        internal string Location, Position, RetryAfter, ETag;
        internal byte[] Body;
    }

    /// <summary>The request never left: no connection could be made.</summary>
    sealed class NotSentException : Exception
    {
        internal NotSentException(string message) : base(message) { }
    }

    /// <summary>
    /// The connections: kept alive, names resolved anew at each connect. Makes one attempt, never two, and decides nothing.
    /// </summary>
    sealed class Http : IDisposable
    {
        /// <summary>Largest answer taken, in bytes.</summary>
        internal const int AnswerLimit = 64 << 20;
        /// <summary>A machine that answered so recently has a connection that is probably alive.</summary>
        static readonly TimeSpan Warm = TimeSpan.FromSeconds(10);

        /// <summary>What .NET Framework says when there is no connection yet.</summary>
        static readonly WebExceptionStatus[] BeforeSending =
        {
            WebExceptionStatus.ConnectFailure, WebExceptionStatus.NameResolutionFailure,
            WebExceptionStatus.TrustFailure, WebExceptionStatus.SecureChannelFailure,
        };

        readonly HttpClient client;
        readonly ClientOptions options;
        readonly Dictionary<string, TimeSpan> answered = new Dictionary<string, TimeSpan>();
        /// <summary>The cluster of the machine that answered first; what is sent from then on says so. Guarded by <c>answered</c>.</summary>
        string cluster;

        internal Http(ClientOptions options)
        {
            this.options = options;
            // .NET Framework keeps what a name resolved to for two minutes; a machine may come back with another address.
            // An application's own setting stays.
            const int frameworkDefault = 120000;
            if (ServicePointManager.DnsRefreshTimeout == frameworkDefault) ServicePointManager.DnsRefreshTimeout = 0;
            // .NET Framework 4.5 offers nothing newer than TLS 1.0 by itself; later ones leave it to the system (0).
            if (options.Hosts.Contains("https://") && ServicePointManager.SecurityProtocol != 0)
                ServicePointManager.SecurityProtocol |= SecurityProtocolType.Tls12;
            var handler = new HttpClientHandler { AllowAutoRedirect = false, UseCookies = false, UseProxy = false };
            client = new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
        }

        public void Dispose() { client.Dispose(); }

        /// <summary>The answer to one request.</summary>
        /// <exception cref="NotSentException">Nothing was sent.</exception>
        /// <exception cref="InvalidDataException">The answer is too large.</exception>
        internal async Task<Answer> Send(string host, Request request, CancellationToken cancel)
        {
            using (var response = await Open(host, request, cancel).ConfigureAwait(false))
                return await Whole(host, response, cancel).ConfigureAwait(false);
        }

        /// <summary>The head of an answer, its body still to come.</summary>
        internal async Task<HttpResponseMessage> Open(string host, Request request, CancellationToken cancel)
        {
            var uri = new Uri(host + request.Path);
            var point = ServicePointManager.FindServicePoint(uri);
            point.ConnectionLimit = Math.Max(point.ConnectionLimit, 2 * options.MaxConcurrent + 16);
            point.Expect100Continue = false;
            point.UseNagleAlgorithm = false;
            HttpResponseMessage response;
            try
            {
                using (var message = Message(uri, request))
                {
                    response = await client.SendAsync(message, HttpCompletionOption.ResponseHeadersRead, cancel).ConfigureAwait(false);
                    lock (answered) answered[host] = Clock.Now;
                }
            }
            catch (Exception error)
            {
                Forget(host);
                if (NeverConnected(error)) throw new NotSentException(Chain(error));
                throw;
            }
            var odd = OtherCluster(response);
            if (odd == null) return response;
            response.Dispose();
            throw new NotSentException(odd);
        }

        /// <summary>Why the machine isn't one of this client's cluster; <c>null</c> if it is, or doesn't say. It has done nothing: the
        /// request names the cluster, or is the first of all.</summary>
        string OtherCluster(HttpResponseMessage response)
        {
            var found = Header(response, "Tanist-Cluster");
            if (found == null) return null;
            lock (answered)
            {
                if (cluster == null) cluster = found;
                if (cluster == found) return null;
                return "it belongs to the cluster \"" + found + "\", the others to \"" + cluster + "\"";
            }
        }

        internal static async Task<Answer> Whole(string host, HttpResponseMessage response, CancellationToken cancel)
        {
            var length = response.Content == null ? 0 : response.Content.Headers.ContentLength;
            if (length > AnswerLimit) throw new InvalidDataException("the answer is larger than " + AnswerLimit + " bytes");
            var answer = new Answer
            {
                Host = host,
                Status = (int)response.StatusCode,
                Location = Header(response, "Location"),
                Position = Header(response, "Tanist-Position"),
                RetryAfter = Header(response, "Retry-After"),
                ETag = Header(response, "ETag"),
                Body = new byte[0],
            };
            if (response.Content == null) return answer;
            // On .NET Framework the body's stream doesn't listen to a token.
            using (cancel.Register(response.Dispose))
            using (var body = await response.Content.ReadAsStreamAsync().ConfigureAwait(false))
            {
                var whole = new MemoryStream();
                var part = new byte[16384];
                int count;
                while ((count = await body.ReadAsync(part, 0, part.Length, cancel).ConfigureAwait(false)) > 0)
                {
                    if (whole.Length + count > AnswerLimit)
                        throw new InvalidDataException("the answer is larger than " + AnswerLimit + " bytes");
                    whole.Write(part, 0, count);
                }
                if (length.HasValue && whole.Length != length) throw new IOException("the answer broke off");
                answer.Body = whole.ToArray();
            }
            return answer;
        }

        /// <summary>The next request to this host connects first.</summary>
        internal void Forget(string host)
        {
            lock (answered) answered.Remove(host);
        }

        HttpRequestMessage Message(Uri uri, Request request)
        {
            var message = new HttpRequestMessage(request.Method, uri);
            if (request.Body != null)
            {
                message.Content = new ByteArrayContent(request.Body);
                message.Content.Headers.TryAddWithoutValidation("Content-Type", request.ContentType);
            }
            string home;
            lock (answered) home = cluster;
            // The master is asked directly from then on.
            message.Headers.TryAddWithoutValidation("Tanist-Redirect", "1");
            if (home != null) message.Headers.TryAddWithoutValidation("Tanist-Cluster", home);
            if (options.Token != null) message.Headers.TryAddWithoutValidation("Authorization", "Bearer " + options.Token);
            foreach (var header in request.Headers) message.Headers.TryAddWithoutValidation(header.Key, header.Value);
            return message;
        }

        static string Header(HttpResponseMessage response, string name)
        {
            IEnumerable<string> values;
            return response.Headers.TryGetValues(name, out values) ? string.Join(",", values) : null;
        }

        /// <summary>
        /// Makes a connection and closes it, unless the host has just answered: the framework's own HTTP waits for a machine
        /// without power for as long as the operating system does, and can't be told otherwise.
        /// </summary>
        /// <exception cref="NotSentException">No connection can be made.</exception>
        internal async Task Reach(string host, TimeSpan patience, CancellationToken cancel)
        {
            var uri = new Uri(host);
            lock (answered)
            {
                TimeSpan at;
                if (answered.TryGetValue(host, out at) && Clock.Now - at < Warm) return;
                if (answered.Count > 4 * Hosts.LearnedMax) answered.Clear();
            }
            IPAddress[] addresses;
            try
            {
                IPAddress literal;
                addresses = IPAddress.TryParse(uri.DnsSafeHost, out literal)
                    ? new[] { literal }
                    : await Dns.GetHostAddressesAsync(uri.DnsSafeHost).ConfigureAwait(false);
            }
            catch (SocketException error)
            {
                throw new NotSentException("the name can't be resolved: " + error.Message);
            }
            var why = "the name has no address";
            foreach (var address in addresses)
            {
                cancel.ThrowIfCancellationRequested();
                why = await Connect(new IPEndPoint(address, uri.Port), patience, cancel).ConfigureAwait(false);
                if (why == null) return;
            }
            throw new NotSentException(why);
        }

        /// <summary>Why no connection could be made; <c>null</c> if one could.</summary>
        async Task<string> Connect(IPEndPoint address, TimeSpan patience, CancellationToken cancel)
        {
            using (var socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp))
            {
                try
                {
                    var connecting = Task.Factory.FromAsync(socket.BeginConnect(address, null, null), socket.EndConnect);
                    if (await Patience.Within(connecting, patience, cancel).ConfigureAwait(false)) return null;
                    return "no connection within " + patience.TotalMilliseconds + " ms";
                }
                catch (SocketException error)
                {
                    return error.Message;
                }
            }
        }

        static bool NeverConnected(Exception error)
        {
            for (; error != null; error = error.InnerException)
            {
                var web = error as WebException;
                if (web != null && Array.IndexOf(BeforeSending, web.Status) >= 0) return true;
                // The other end couldn't prove who it is, so it was told nothing.
                if (error is AuthenticationException) return true;
                var socket = error as SocketException;
                if (socket != null && (socket.SocketErrorCode == SocketError.ConnectionRefused
                    || socket.SocketErrorCode == SocketError.HostNotFound))
                    return true;
            }
            return false;
        }

        /// <summary>An error with its causes: the framework's own text says little.</summary>
        internal static string Chain(Exception error)
        {
            var text = error.Message;
            for (var cause = error.InnerException; cause != null; cause = cause.InnerException)
                if (!text.EndsWith(cause.Message, StringComparison.Ordinal)) text += ": " + cause.Message;
            return text;
        }
    }
}
