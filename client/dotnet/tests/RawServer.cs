using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Threading;

namespace Tanist.Client.Tests
{
    /// <summary>Answers bytes as told, also such as no Tanist ever sends. One thread for each connection.</summary>
    sealed class RawServer : IDisposable
    {
        /// <summary>Told by the handler: no answer, the connection ends.</summary>
        internal const string Hang = "hang";

        readonly TcpListener listener = new TcpListener(IPAddress.Loopback, 0);
        readonly Func<string, string> handler;
        readonly List<TcpClient> clients = new List<TcpClient>();
        readonly ManualResetEvent disposed = new ManualResetEvent(false);

        /// <summary>The heads and bodies that have come, but for those that ask for the cluster.</summary>
        internal readonly List<string> Requests = new List<string>();

        internal string Url { get { return "http://127.0.0.1:" + ((IPEndPoint)listener.LocalEndpoint).Port; } }

        internal int Connections { get { lock (clients) return clients.Count; } }

        internal RawServer(Func<string, string> handler)
        {
            this.handler = handler;
            listener.Start();
            new Thread(Accept) { IsBackground = true }.Start();
        }

        public void Dispose()
        {
            disposed.Set();
            listener.Stop();
            lock (clients)
                foreach (var client in clients) client.Close();
        }

        internal static string Answer(int status, string body, string headers = "")
        {
            return "HTTP/1.1 " + status + " X\r\ncontent-type: application/json\r\n" + headers
                + "content-length: " + Encoding.UTF8.GetByteCount(body) + "\r\n\r\n" + body;
        }

        internal static string Problem(int status, string code)
        {
            return Answer(status, "{\"type\":\"urn:x\",\"title\":\"t\",\"status\":" + status + ",\"code\":\"" + code + "\",\"detail\":\"said so\"}");
        }

        void Accept()
        {
            try
            {
                while (true)
                {
                    var client = listener.AcceptTcpClient();
                    lock (clients) clients.Add(client);
                    new Thread(() => Serve(client)) { IsBackground = true }.Start();
                }
            }
            catch (SocketException) { }
            catch (ObjectDisposedException) { }
            catch (InvalidOperationException) { }
        }

        void Serve(TcpClient client)
        {
            try
            {
                using (client)
                {
                    var stream = client.GetStream();
                    string request;
                    while ((request = ReadRequest(stream)) != null)
                    {
                        if (!request.Contains("/v1/cluster "))
                            lock (Requests) Requests.Add(request);
                        var answer = handler(request);
                        if (answer == Hang)
                        {
                            disposed.WaitOne();
                            return;
                        }
                        if (answer.Length == 0) return;
                        var bytes = Encoding.UTF8.GetBytes(answer);
                        stream.Write(bytes, 0, bytes.Length);
                        if (answer.Contains("connection: close")) return;
                    }
                }
            }
            catch (IOException) { }
            catch (ObjectDisposedException) { }
        }

        static string ReadRequest(Stream stream)
        {
            var text = new StringBuilder();
            while (!text.ToString().EndsWith("\r\n\r\n"))
            {
                var b = stream.ReadByte();
                if (b < 0) return null;
                text.Append((char)b);
            }
            var lower = text.ToString().ToLowerInvariant();
            var at = lower.IndexOf("content-length:", StringComparison.Ordinal);
            var length = at < 0 ? 0 : int.Parse(lower.Substring(at + 15, lower.IndexOf('\r', at) - at - 15).Trim());
            for (; length > 0; length--) text.Append((char)stream.ReadByte());
            return text.ToString();
        }
    }
}
