using System;
using System.Collections.Generic;
using System.Linq;
using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>A part of a list.</summary>
    /// <typeparam name="T">Its entries.</typeparam>
    public sealed class Page<T>
    {
        internal Page(JsonObject json, Func<JsonObject, T> read)
        {
            Entries = json.Objects("entries").Select(read).ToList();
            Next = json.TextOrNull("next");
        }

        /// <summary>In order.</summary>
        public IList<T> Entries { get; private set; }

        /// <summary>There are more: ask again with this; <c>null</c> at the end.</summary>
        public string Next { get; private set; }
    }

    /// <summary>What all recorded things have: who changed it when.</summary>
    public abstract class Recorded
    {
        internal Recorded(JsonObject json, string at = "changed_at", string by = "changed_by")
        {
            Revision = json.Integer("revision");
            At = json.Text(at);
            By = json.TextOrNull(by);
            Json = json;
        }

        /// <summary>Changes with the content and never comes back; the id of the event that told of the change.</summary>
        public long Revision { get; private set; }

        /// <summary>For <see cref="WriteOptions.IfMatch"/>.</summary>
        public string ETag { get; internal set; }

        /// <summary>When, by the master's wall clock, ISO 8601.</summary>
        public string At { get; private set; }

        /// <summary>By whom; <c>null</c> if unknown.</summary>
        public string By { get; private set; }

        /// <summary>The whole answer.</summary>
        public JsonObject Json { get; private set; }
    }

    /// <summary>A configuration value.</summary>
    public sealed class ConfigEntry : Recorded
    {
        internal ConfigEntry(JsonObject json) : base(json)
        {
            Key = json.Text("key");
            Value = json["value"];
        }

        /// <summary>Its key.</summary>
        public string Key { get; private set; }

        /// <summary>Any JSON, as in <see cref="JsonObject"/>.</summary>
        public object Value { get; private set; }
    }

    /// <summary>A change of a configuration value.</summary>
    public sealed class ConfigChange : Recorded
    {
        internal ConfigChange(JsonObject json) : base(json)
        {
            Old = json["old"];
            New = json["new"];
            Added = !json.Contains("old");
            Removed = !json.Contains("new");
        }

        /// <summary>The value before.</summary>
        public object Old { get; private set; }

        /// <summary>The value after.</summary>
        public object New { get; private set; }

        /// <summary>There was no value before.</summary>
        public bool Added { get; private set; }

        /// <summary>There was none after.</summary>
        public bool Removed { get; private set; }
    }

    public sealed partial class TanistClient
    {
        /// <summary>A configuration value; <c>null</c> if there is none.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<ConfigEntry> GetConfigAsync(string key, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(Path("config", key), read, json => new ConfigEntry(json), null, cancel);
        }

        /// <summary>As <see cref="GetConfigAsync"/>, blocking.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public ConfigEntry GetConfig(string key, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(GetConfigAsync(key, read, cancel));
        }

        /// <summary>The value again: the same object if it hasn't changed, which costs no transfer; <c>null</c> if it is gone.</summary>
        /// <param name="known">As read or written earlier.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<ConfigEntry> RefreshConfigAsync(
            ConfigEntry known, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Find(Path("config", known.Key), read, json => new ConfigEntry(json), known, cancel);
        }

        /// <summary>As <see cref="RefreshConfigAsync"/>, blocking.</summary>
        /// <param name="known">As read or written earlier.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public ConfigEntry RefreshConfig(ConfigEntry known, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(RefreshConfigAsync(known, read, cancel));
        }

        /// <summary>Sets a configuration value.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="value">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<ConfigEntry> SetConfigAsync(
            string key, object value, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            var call = Write(HttpMethod.Put, Path("config", key), new JsonObject { { "value", value } }, write);
            return MakeRecorded(call, json => new ConfigEntry(json), cancel);
        }

        /// <summary>As <see cref="SetConfigAsync"/>, blocking.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="value">What JSON can say.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public ConfigEntry SetConfig(string key, object value, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(SetConfigAsync(key, value, write, cancel));
        }

        /// <summary>Removes a configuration value; gives the revision of the removal.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<long> RemoveConfigAsync(string key, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Remove(Path("config", key), write, cancel);
        }

        /// <summary>As <see cref="RemoveConfigAsync"/>, blocking.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="write">Key, deadline, conditions.</param>
        /// <param name="cancel">Ends the call early.</param>
        public long RemoveConfig(string key, WriteOptions write = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(RemoveConfigAsync(key, write, cancel));
        }

        /// <summary>Configuration values, by key.</summary>
        /// <param name="prefix">Only keys that begin so; <c>null</c>: all.</param>
        /// <param name="after">After this key: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Page<ConfigEntry>> ListConfigAsync(
            string prefix = null, string after = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return List("/v1/config" + Query("prefix", prefix, "after", after), read, json => new ConfigEntry(json), cancel);
        }

        /// <summary>As <see cref="ListConfigAsync"/>, blocking.</summary>
        /// <param name="prefix">Only keys that begin so; <c>null</c>: all.</param>
        /// <param name="after">After this key: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Page<ConfigEntry> ListConfig(
            string prefix = null, string after = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ListConfigAsync(prefix, after, read, cancel));
        }

        /// <summary>All changes of a value, the newest first.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="before">Before this revision: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Task<Page<ConfigChange>> ConfigHistoryAsync(
            string key, string before = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return List(Path("config", key) + "/history" + Query("before", before), read, json => new ConfigChange(json), cancel);
        }

        /// <summary>As <see cref="ConfigHistoryAsync"/>, blocking.</summary>
        /// <param name="key">Its key.</param>
        /// <param name="before">Before this revision: <see cref="Page{T}.Next"/> of the page before.</param>
        /// <param name="read">How current it must be; strong otherwise.</param>
        /// <param name="cancel">Ends the call early.</param>
        public Page<ConfigChange> ConfigHistory(
            string key, string before = null, ReadOptions read = null, CancellationToken cancel = default(CancellationToken))
        {
            return Wait(ConfigHistoryAsync(key, before, read, cancel));
        }

        // What the routes of configuration, nodes and commands share.

        static string Path(string resource, string name) { return "/v1/" + resource + "/" + Segment(name); }

        static string Segment(string name)
        {
            // The framework takes "." and ".." for steps in the path.
            if (string.IsNullOrEmpty(name) || name.Trim('.').Length == 0)
                throw new ArgumentException("found \"" + name + "\", expected a name");
            return Uri.EscapeDataString(name);
        }

        /// <summary>Names and values in turn; those without a value are left out.</summary>
        static string Query(params string[] parts)
        {
            var query = "";
            for (var i = 0; i < parts.Length; i += 2)
            {
                if (parts[i + 1] == null) continue;
                query += (query.Length == 0 ? "?" : "&") + parts[i] + "=" + Uri.EscapeDataString(parts[i + 1]);
            }
            return query;
        }

        /// <summary>What is there; <c>null</c> if nothing is; <paramref name="known"/> if that is still current.</summary>
        async Task<T> Find<T>(
            string path, ReadOptions read, Func<JsonObject, T> make, T known, CancellationToken cancel) where T : Recorded
        {
            var call = Read(HttpMethod.Get, path, read);
            if (known != null) call.Request.Header("If-None-Match", known.ETag);
            try
            {
                return await Make(call, answer => answer.Status == 304 ? known : Tagged(answer, make), cancel).ConfigureAwait(false);
            }
            catch (ProblemException error) when (error.Problem.Code == "not-found")
            {
                return null;
            }
        }

        Task<T> MakeRecorded<T>(Call call, Func<JsonObject, T> make, CancellationToken cancel) where T : Recorded
        {
            return Make(call, answer => Tagged(answer, make), cancel);
        }

        static T Tagged<T>(Answer answer, Func<JsonObject, T> make) where T : Recorded
        {
            var recorded = Parse(answer, make);
            recorded.ETag = answer.ETag;
            return recorded;
        }

        Task<Page<T>> List<T>(string path, ReadOptions read, Func<JsonObject, T> make, CancellationToken cancel)
        {
            return Make(Read(HttpMethod.Get, path, read), json => new Page<T>(json, make), cancel);
        }

        Task<long> Remove(string path, WriteOptions write, CancellationToken cancel)
        {
            return Make(Write(HttpMethod.Delete, path, null, write), json => json.Integer("revision"), cancel);
        }

        Call Patch(string path, object patch, WriteOptions write)
        {
            var call = Write(new HttpMethod("PATCH"), path, patch, write);
            call.Request.ContentType = "application/merge-patch+json";
            return call;
        }
    }
}
